"""Scenes and answers with mistakes in them, at a given rate: what a label costs that is wrong."""

from __future__ import annotations

import random
from dataclasses import replace

from sicog.mini.questions import Question, all_questions, question_text
from sicog.mini.scene import (
    COLOURS,
    COLUMNS,
    NUMBERS_OF_THINGS,
    REGIONS,
    ROWS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    in_reading_order,
)
from sicog.mini.text import singular

_TRIES = 400
MOST_THINGS = max(number for number, _ in NUMBERS_OF_THINGS)


def mistaken_scene(scene: Scene, rate: float, rng: random.Random) -> Scene:
    """The scene with each thing mistaken at that rate: one of its attributes is another one. At the same rate, and
    apart from that, a thing stands in another free region."""
    things: list[Thing] = []
    for thing in scene.things:
        seen = _other_attribute(thing, rng) if rng.random() < rate else thing
        if rng.random() < rate:
            taken = {scene.region(t) for t in (*things, *scene.things)}
            seen = replace(seen, box=_box(scene, rng.choice([r for r in REGIONS if r not in taken])))
        things.append(seen)
    return in_reading_order(replace(scene, things=tuple(things)))


def mistaken_answer(scene: Scene, question: Question, rng: random.Random) -> tuple[Scene, Question]:
    """The same words asked of a mistaken scene that gives them another answer, so that the chain to it is whole.

    Raises `ValueError` when no such scene is found, which the forms of questions make all but impossible.
    """
    words, named = question_text(question), {singular(word) for arg in question.args for word in arg.split()}
    for attempt in range(_TRIES):
        seen = _changed(scene, max(0.3, attempt / _TRIES), named, rng)
        for other in all_questions(seen, question.type, name_held_out=True):
            if question_text(other) == words and other.answer != question.answer:
                return seen, other
    raise ValueError(f"{scene.id}: no mistake gives {words!r} another answer than {question.answer!r}")


def _changed(scene: Scene, rate: float, named: set[str], rng: random.Random) -> Scene:
    """A mistaken scene; besides, a thing may be missed, made up, or taken for one that is named or for another."""
    seen = mistaken_scene(scene, rate, rng)
    things, kind = list(seen.things), rng.random()
    if kind < 0.25 and len(things) > 1:
        del things[rng.randrange(len(things))]
    elif kind < 0.5 and len(things) < MOST_THINGS:
        free = [r for r in REGIONS if r not in {seen.region(t) for t in things}]
        thing = Thing(rng.choice(SIZES), rng.choice(COLOURS), rng.choice(SHAPES), _box(scene, rng.choice(free)))
        things.append(_named(thing, named, rng))
    elif kind < 0.75:
        one = rng.randrange(len(things))
        things[one] = _named(things[one], named, rng)
    elif len(things) > 1:  # two are taken for one another, in size or place: what comparing questions turn on
        one, other = rng.sample(range(len(things)), 2)
        a, b = things[one], things[other]
        if rng.random() < 0.5:
            things[one], things[other] = replace(a, box=b.box), replace(b, box=a.box)
        else:
            things[one], things[other] = _with(a, 0, b.attributes[0]), _with(b, 0, a.attributes[0])
    return in_reading_order(replace(seen, things=tuple(things)))


_ATTRIBUTES = (SIZES, COLOURS, SHAPES)  # in the order of `Thing.attributes`


def _named(thing: Thing, named: set[str], rng: random.Random) -> Thing:
    """The thing with the attributes that are named, of several of a kind one."""
    for place, known in enumerate(_ATTRIBUTES):
        if words := sorted(named & set(known)):
            thing = _with(thing, place, rng.choice(words))
    return thing


def _other_attribute(thing: Thing, rng: random.Random) -> Thing:
    place = rng.randrange(len(_ATTRIBUTES))
    return _with(thing, place, rng.choice([word for word in _ATTRIBUTES[place] if word != thing.attributes[place]]))


def _with(thing: Thing, place: int, word: str) -> Thing:
    size, colour, shape = (word if k == place else own for k, own in enumerate(thing.attributes))
    return Thing(size, colour, shape, thing.box)


def _box(scene: Scene, region: str) -> tuple[int, int, int, int]:
    """A box in the middle of the region: it decides where the thing is said to be."""
    row, column = region.split()
    x = round((COLUMNS.index(column) + 0.5) / 3 * scene.width)
    y = round((ROWS.index(row) + 0.5) / 3 * scene.height)
    return x - 1, y - 1, x + 1, y + 1

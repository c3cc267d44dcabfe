"""Make scenes and answers with mistakes at a given rate, to measure the cost of wrong labels."""

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
    """Return the scene with mistakes: at this rate a thing gets a wrong attribute, and independently a wrong region."""
    things: list[Thing] = []
    for thing in scene.things:
        seen = _other_attribute(thing, rng) if rng.random() < rate else thing
        if rng.random() < rate:
            taken = {scene.region(t) for t in (*things, *scene.things)}
            seen = replace(seen, box=_region_box(scene, rng.choice([r for r in REGIONS if r not in taken])))
        things.append(seen)
    return in_reading_order(replace(scene, things=tuple(things)))


def mistaken_answer(scene: Scene, question: Question, rng: random.Random) -> tuple[Scene, Question]:
    """Return a mistaken scene in which the same question has another answer, so that its chain is consistent.

    Raises `ValueError` when no such scene is found, which is nearly impossible.
    """
    words, named = question_text(question), {singular(word) for arg in question.args for word in arg.split()}
    for attempt in range(_TRIES):
        seen = _changed_scene(scene, max(0.3, attempt / _TRIES), named, rng)
        for other in all_questions(seen, question.type, name_held_out=True):
            if question_text(other) == words and other.answer != question.answer:
                return seen, other
    raise ValueError(f"{scene.id}: no mistake changes the answer {question.answer!r} of {words!r}. Use another seed")


def _changed_scene(scene: Scene, rate: float, named: set[str], rng: random.Random) -> Scene:
    """Return a mistaken scene; a thing may also be missing, added, or swapped with a named or another thing."""
    seen = mistaken_scene(scene, rate, rng)
    things, kind = list(seen.things), rng.random()
    if kind < 0.25 and len(things) > 1:
        del things[rng.randrange(len(things))]
    elif kind < 0.5 and len(things) < MOST_THINGS:
        free = [r for r in REGIONS if r not in {seen.region(t) for t in things}]
        thing = Thing(rng.choice(SIZES), rng.choice(COLOURS), rng.choice(SHAPES), _region_box(scene, rng.choice(free)))
        things.append(_keep_named(thing, named, rng))
    elif kind < 0.75:
        one = rng.randrange(len(things))
        things[one] = _keep_named(things[one], named, rng)
    elif len(things) > 1:  # swap size or place of two things, which changes answers of comparing questions
        one, other = rng.sample(range(len(things)), 2)
        a, b = things[one], things[other]
        if rng.random() < 0.5:
            things[one], things[other] = replace(a, box=b.box), replace(b, box=a.box)
        else:
            things[one], things[other] = _with_attribute(a, 0, b.attributes[0]), _with_attribute(b, 0, a.attributes[0])
    return in_reading_order(replace(seen, things=tuple(things)))


_ATTRIBUTES = (SIZES, COLOURS, SHAPES)  # in the order of `Thing.attributes`


def _keep_named(thing: Thing, named: set[str], rng: random.Random) -> Thing:
    """Return the thing with the named attributes; of several of a kind, with one of them."""
    for place, known in enumerate(_ATTRIBUTES):
        if words := sorted(named & set(known)):
            thing = _with_attribute(thing, place, rng.choice(words))
    return thing


def _other_attribute(thing: Thing, rng: random.Random) -> Thing:
    place = rng.randrange(len(_ATTRIBUTES))
    return _with_attribute(
        thing, place, rng.choice([word for word in _ATTRIBUTES[place] if word != thing.attributes[place]])
    )


def _with_attribute(thing: Thing, place: int, word: str) -> Thing:
    size, colour, shape = (word if k == place else own for k, own in enumerate(thing.attributes))
    return Thing(size, colour, shape, thing.box)


def _region_box(scene: Scene, region: str) -> tuple[int, int, int, int]:
    """Return a box in the middle of the region, which determines the stated place of the thing."""
    row, column = region.split()
    x = round((COLUMNS.index(column) + 0.5) / 3 * scene.width)
    y = round((ROWS.index(row) + 0.5) / 3 * scene.height)
    return x - 1, y - 1, x + 1, y + 1

"""The 4-step chain of thought of a question: task, things with places, inference, bare answer.

Steps are small and local, because the model is small. Everything is listed before a decision. A list is processed thing
by thing with a verdict on each. Compared values are next to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sicog.chains import COT, render
from sicog.mini.questions import WHICH, Question, matching_things
from sicog.mini.scene import COLUMNS, ROWS, Scene, Thing
from sicog.mini.text import NUMBERS, capital, full_name, listing, place, singular


def cot_bodies(scene: Scene, question: Question) -> tuple[str, str, str, str]:
    """Return the bodies of the four steps. The third step follows from the first two alone."""
    reason = _INFER[question.type](scene, question)
    seen = f"There is {listing(scene)}."
    return (
        f"{capital(_task(question))}.",
        seen,
        f"{capital(reason)}, so the answer is {question.answer}.",
        question.answer,
    )


def cot_text(scene: Scene, question: Question) -> str:
    """Return the whole chain of thought."""
    return render(COT, cot_bodies(scene, question))


_TASKS = {
    ("count", "all"): "count the things",
    ("count", "color"): "count the {0} things",
    ("count", "shape"): "count the {0}",
    ("relation", "column"): "find the column of the {0}",
    ("relation", "row"): "find the row of the {0}",
    **{("relation", kind): f"find which is {words}, the {{0}} or the {{1}}" for kind, words in WHICH.items()},
    ("compare", "larger"): "find which is larger, the {0} or the {1}",
    ("compare", "smaller"): "find which is smaller, the {0} or the {1}",
    ("compare", "more"): "count the {0} and the {1}",
}


def _task(question: Question) -> str:
    if question.type == "exist":
        return f"check if there is {question.args[0]}"
    if question.type == "attribute":
        return f"find the {question.kind} of the {question.args[0]}"
    return _TASKS[question.type, question.kind].format(*question.args)


def _walk_things(scene: Scene, said: Mapping[int, str]) -> str:
    """Return each thing with its verdict, up to the last one that has a verdict: `look: red circle: no; ...`."""
    last = max(said, default=len(scene.things) - 1)
    walked = [f"{_bare_name(thing)}: {said.get(k, _NO)}" for k, thing in enumerate(scene.things[: last + 1])]
    return f"look: {'; '.join(walked)}"


_YES, _NO = "yes", "no"


def _bare_name(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _count(scene: Scene, question: Question) -> str:
    """Return each thing with the count so far: `look: red circle: yes, one; blue star: no, one`."""
    number, said = 0, {}
    for k in range(len(scene.things)):
        counts = k in question.things
        number += counts
        said[k] = NUMBERS[number] if question.kind == "all" else f"{_YES if counts else _NO}, {NUMBERS[number]}"
    return _walk_things(scene, said)


def _exist(scene: Scene, question: Question) -> str:
    """Return each thing up to the wanted one: `look: red circle: no; red star: yes`."""
    fits = [k for k, thing in enumerate(scene.things) if _bare_name(thing) in question.args[0]]
    return _walk_things(scene, dict.fromkeys(fits[:1], _YES))


def _named_things(scene: Scene, question: Question) -> list[str]:
    """Return a phrase for each thing in the question: `the star is the large red star at the top left`."""
    things = [scene.things[k] for k in question.things]
    return [
        f"the {name} is the {full_name(thing)} {place(scene, thing)}"
        for name, thing in zip(question.args, things, strict=True)
    ]


def _attribute(scene: Scene, question: Question) -> str:
    """Return `the star is the large red star at the top left: red`."""
    return f"{_named_things(scene, question)[0]}: {question.answer}"


def _relation(scene: Scene, question: Question) -> str:
    """Return `the star is the large red star at the top left: left`, and for two things the choice."""
    things = [scene.things[k] for k in question.things]
    in_rows = question.kind in ("row", "above", "below")
    words = [ROWS[scene.row(t)] if in_rows else COLUMNS[scene.column(t)] for t in things]
    return _choice(scene, question, words) if question.choice else f"{_named_things(scene, question)[0]}: {words[0]}"


def _compare(scene: Scene, question: Question) -> str:
    if question.kind != "more":
        return _choice(scene, question, [scene.things[k].size for k in question.things])
    groups = [[scene.things[k].colour for k in matching_things(scene, singular(many))] for many in question.args]
    numbers = [NUMBERS[len(group)] for group in groups]
    counted = [
        f"{many}: {', '.join([*group, number])} {many}"
        for many, group, number in zip(question.args, groups, numbers, strict=True)
    ]
    return f"look: {'; '.join(counted)}: {_decision(question, numbers)}"


def _choice(scene: Scene, question: Question, words: Sequence[str]) -> str:
    """Return both things with their words, then the choice.

    `the star is the ...: left star; the circle is the ...: right circle: further left, left star or right circle? left
    star`.
    """
    told = zip(_named_things(scene, question), words, question.args, strict=True)
    stated = "; ".join(f"{found}: {word} {name}" for found, word, name in told)
    return f"{stated}: {_decision(question, words)}"


def _decision(question: Question, words: Sequence[str]) -> str:
    """Return the criterion, both words with their names, then the choice: `further left, left star or right circle?
    left star`.

    A name always follows its word, because a small model can copy what follows a word, but not what comes before it.
    """
    first, second = (f"{word} {name}" for word, name in zip(words, question.args, strict=True))
    chosen = words[question.choice == "second"]
    return f"{WHICH.get(question.kind, question.kind)}, {first} or {second}? {chosen} {question.answer}"


_INFER = {
    "count": _count,
    "exist": _exist,
    "attribute": _attribute,
    "relation": _relation,
    "compare": _compare,
}

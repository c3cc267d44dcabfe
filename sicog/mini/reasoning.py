"""The 4-step chain of thought for a question: task, what is seen and where, the inference from it, the bare answer.

Steps are small and local, for a model that can only do such ones: everything is listed before anything is decided, a
list is walked thing by thing with the verdict beside each, and what is compared stands side by side.
"""

from __future__ import annotations

from sicog.chains import COT, render
from sicog.mini.questions import WHICH, Question, matching
from sicog.mini.scene import COLUMNS, ROWS, Scene, Thing
from sicog.mini.text import NUMBERS, capital, full_name, listing, name, place


def cot_bodies(scene: Scene, question: Question) -> tuple[str, str, str, str]:
    """The bodies of the four steps. The third step follows from the first two alone."""
    reason = _INFER[question.type](scene, question)
    seen = f"There is {listing(scene)}."
    return (
        f"{capital(_task(question))}.",
        seen,
        f"{capital(reason)}, so the answer is {question.answer}.",
        question.answer,
    )


def cot_text(scene: Scene, question: Question) -> str:
    """The whole chain of thought."""
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


_YES_NO = ("no", "yes")


def _singular(many: str) -> str:
    return "cross" if many == "crosses" else many.removesuffix("s")


def _bare(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _count(scene: Scene, question: Question) -> str:
    """Each thing with the number so far: `look: red circle: yes, one; blue star: no, one`."""
    walked, number = [], 0
    for k, thing in enumerate(scene.things):
        counts = k in question.things
        number += counts
        verdict = "" if question.kind == "all" else f"{_YES_NO[counts]}, "
        walked.append(f"{_bare(thing)}: {verdict}{NUMBERS[number]}")
    return f"look: {'; '.join(walked)}"


def _exist(scene: Scene, question: Question) -> str:
    """Each thing up to the one that is asked for: `look: red circle: no; red star: yes`."""
    walked = []
    for thing in scene.things:
        found = _bare(thing) in question.args[0]
        walked.append(f"{_bare(thing)}: {_YES_NO[found]}")
        if found:
            break
    return f"look: {'; '.join(walked)}"


def _attribute(scene: Scene, question: Question) -> str:
    thing = scene.things[question.things[0]]
    return f"the {question.args[0]} is the {full_name(thing)} {place(scene, thing)}: {question.answer}"


def _relation(scene: Scene, question: Question) -> str:
    things = [scene.things[i] for i in question.things]
    stand = ", ".join(f"the {name(scene, t)} is {place(scene, t)}" for t in things)
    in_rows = question.kind in ("row", "above", "below")
    words = [ROWS[scene.row(t)] if in_rows else COLUMNS[scene.column(t)] for t in things]
    return f"{stand}: {_picked(question, words)}"


def _compare(scene: Scene, question: Question) -> str:
    if question.kind == "more":
        groups = [[scene.things[i].colour for i in matching(scene, _singular(many))] for many in question.args]
        numbers = [NUMBERS[len(group)] for group in groups]
        counted = "; ".join(
            f"{many}: {', '.join([*group, number])}"
            for many, group, number in zip(question.args, groups, numbers, strict=True)
        )
        return f"look: {counted}: {_picked(question, numbers)}"
    sizes = [scene.things[i].size for i in question.things]
    stated = ", ".join(f"the {words} is {size}" for words, size in zip(question.args, sizes, strict=True))
    return f"{stated}: {_picked(question, sizes)}"


def _picked(question: Question, words: list[str]) -> str:
    """The words of both beside each other, and the one that decides: `left or center? left`."""
    if len(words) == 1:
        return words[0]
    return f"{words[0]} or {words[1]}? {words[question.choice == 'second']}"


_INFER = {
    "count": _count,
    "exist": _exist,
    "attribute": _attribute,
    "relation": _relation,
    "compare": _compare,
}

"""The 4-step chain of thought for a question: task, what is seen and where, the inference from it, the bare answer."""

from __future__ import annotations

from collections.abc import Sequence

from sicog.chains import COT, render
from sicog.mini.questions import Question, matching
from sicog.mini.scene import Scene, Thing, choose
from sicog.mini.text import NUMBERS, a, capital, full_name, join, name, place, plural


def cot_bodies(scene: Scene, question: Question, key: str) -> tuple[str, str, str, str]:
    """The bodies of the four steps; the wording varies with the key (the question's id).

    The third step follows from the second alone: what is counted or denied is listed there completely.
    """
    task = _task(question)
    opening = choose((capital(f"{task}."), f"I must {task}."), key, "task")
    seen, reason = _LOOK[question.type](scene, question)
    return opening, seen, f"{capital(reason)}, so the answer is {question.answer}.", question.answer


def cot_text(scene: Scene, question: Question, key: str) -> str:
    """The whole chain of thought."""
    return render(COT, cot_bodies(scene, question, key))


_TASKS = {
    ("count", "all"): "count the things",
    ("count", "color"): "count the {0} things",
    ("count", "shape"): "count the {0}",
    ("relation", "left"): "check if the {0} is left of the {1}",
    ("relation", "right"): "check if the {0} is right of the {1}",
    ("relation", "above"): "check if the {0} is above the {1}",
    ("relation", "side"): "check if the {0} is {1}",
    ("compare", "more"): "compare the numbers of {0} and {1}",
    ("compare", "larger"): "compare the sizes of the {0} and the {1}",
    ("compare", "same color"): "compare the colors of the {0} and the {1}",
    ("compare", "same shape"): "compare the shapes of the {0} and the {1}",
}


def _task(question: Question) -> str:
    if question.type == "exist":
        return f"check if there is {question.args[0]}"
    if question.type == "attribute":
        return f"find the {question.kind} of the {question.args[0]}"
    return _TASKS[question.type, question.kind].format(*question.args)


def _all_of(scene: Scene, things: Sequence[Thing], one: str, many: str) -> str:
    """A complete list of the things of a sort, also when there is none."""
    listed = [f"the {name(scene, t)} {place(scene, t)}" for t in things]
    if not listed:
        return f"There is no {one}."
    return f"The only {one} is {listed[0]}." if len(listed) == 1 else f"The {many} are {join(listed)}."


def _singular(many: str) -> str:
    return "cross" if many == "crosses" else many.removesuffix("s")


def _look_count(scene: Scene, question: Question) -> tuple[str, str]:
    things = [scene.things[i] for i in question.things]
    many = {"all": "things", "color": "{0} things", "shape": "{0}"}[question.kind].format(*question.args)
    counted = ", ".join(NUMBERS[1 : len(things) + 1])
    reason = f"counting gives {counted}" if things else "there is nothing to count"
    return _all_of(scene, things, _singular(many), many), reason


def _look_exist(scene: Scene, question: Question) -> tuple[str, str]:
    _article, colour, shape = question.args[0].split()
    things = [scene.things[i] for i in question.things]
    seen = _all_of(scene, things, shape, plural(shape))
    if not things:
        return seen, f"without {a(shape)} there is no {colour} {shape}"
    if question.answer == "yes":
        return seen, f"there is {question.args[0]}"
    return seen, f"it is not {colour}" if len(things) == 1 else f"none of them is {colour}"


def _look_attribute(scene: Scene, question: Question) -> tuple[str, str]:
    thing = scene.things[question.things[0]]
    value = a(question.answer) if question.kind == "shape" else question.answer
    seen = f"The {question.args[0]} is the {full_name(thing)} {place(scene, thing)}."
    return seen, f"it is {value}"


def _look_relation(scene: Scene, question: Question) -> tuple[str, str]:
    things = [scene.things[i] for i in question.things]
    seen = " ".join(f"The {name(scene, t)} is {place(scene, t)}." for t in things)
    if question.kind == "side":
        verb = "is" if question.answer == "yes" else "is not"
        return seen, f"it {verb} {question.args[1]}"
    ahead = {"left": "further left", "right": "further right", "above": "higher"}[question.kind]
    if question.answer == "yes":
        return seen, f"the {name(scene, things[0])} is {ahead}"
    return seen, f"the {name(scene, things[0])} is not {ahead}"


def _look_compare(scene: Scene, question: Question) -> tuple[str, str]:
    if question.kind == "more":
        return _look_more(scene, question)
    first, second = (scene.things[i] for i in question.things)
    x, y = {
        "larger": (first.size, second.size),
        "same color": (first.colour, second.colour),
        "same shape": (a(first.shape), a(second.shape)),
    }[question.kind]
    seen = " ".join(
        f"The {words} {place(scene, thing)} is {value}."
        for words, thing, value in zip(question.args, (first, second), (x, y), strict=True)
    )
    if x == y:
        return seen, f"both are {plural(first.shape) if question.kind == 'same shape' else x}"
    relation = "larger than " if question.kind == "larger" else ""
    return seen, f"{x} is {'' if question.answer == 'yes' else 'not '}{relation}{y}"


def _look_more(scene: Scene, question: Question) -> tuple[str, str]:
    groups = [[scene.things[i] for i in matching(scene, _singular(many))] for many in question.args]
    seen = " ".join(
        _all_of(scene, group, _singular(many), many) for many, group in zip(question.args, groups, strict=True)
    )
    x, y = (NUMBERS[len(group)] for group in groups)
    return seen, f"{x} is {'' if question.answer == 'yes' else 'not '}more than {y}"


_LOOK = {
    "count": _look_count,
    "exist": _look_exist,
    "attribute": _look_attribute,
    "relation": _look_relation,
    "compare": _look_compare,
}

"""Questions about a scene with their true answers: all that can be asked, and a draw that balances the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

from sicog.mini.scene import COLOURS, COLUMNS, HELD_OUT, ROWS, SHAPES, Scene, Thing, choose
from sicog.mini.text import NUMBERS, a, full_name, plural

QUESTION_TYPES = ("count", "exist", "attribute", "relation", "compare")
# "Which is ..., the A or the B?": in which order of rows or columns the first is the answer, and what it is asked as.
WHICH = {"left": "further left", "right": "further right", "above": "higher", "below": "lower"}


@dataclass(frozen=True)
class Question:
    """A question on a scene.

    `type` is what evaluation groups by, `kind` the form within it, `args` the words that fill the form, `things` the
    indices of the scene's things that the answer rests on.
    """

    type: str
    kind: str
    args: tuple[str, ...]
    things: tuple[int, ...]
    answer: str

    @property
    def choice(self) -> str:
        """`first` or `second` where one of the two that are named is the answer, else nothing."""
        return ("first", "second")[self.args.index(self.answer)] if self.answer in self.args else ""

    @property
    def asks_of_held_out(self) -> bool:
        """Whether it names a held-out pair of colour and shape."""
        return any(colour in arg.split() and shape in arg.split() for arg in self.args for colour, shape in HELD_OUT)


def all_questions(scene: Scene, type_: str, *, name_held_out: bool) -> list[Question]:
    """Everything of that type that can be asked of the scene.

    With `name_held_out` false no question names a held-out pair, not even to deny it: that would be a label.
    """
    found = _FORMS[type_](scene)
    return [q for q in found if name_held_out or not q.asks_of_held_out]


class BalancedDraw:
    """Draws questions for one split so that answers come equally often; the order of the calls decides the draw.

    Among what a scene allows, the rarest answer so far is taken: per type for yes/no questions, then (and for the
    other types first) per form and answer, so that the form alone does not tell the answer.
    """

    def __init__(self, *, name_held_out: bool) -> None:
        self.name_held_out = name_held_out
        self.counts: Counter[tuple[str, ...]] = Counter()

    def draw(self, scene: Scene, type_: str) -> Question:
        """One question of the type. Every type can be asked of every scene."""
        options = all_questions(scene, type_, name_held_out=self.name_held_out)
        assert options, f"nothing of type {type_} to ask of {scene.id}"
        rarest = min(self._seen(q) for q in options)
        question = choose([q for q in options if self._seen(q) == rarest], scene.id, "draw", type_)
        self.counts[self._last(question)] += 1
        self.counts[self._first(question)] += 1
        return question

    def _first(self, question: Question) -> tuple[str, ...]:
        """What is balanced first: the answer of yes/no questions, else the form; of counts nothing."""
        if question.type == "count":
            return question.type, "", ""
        return question.type, question.answer if question.type == "exist" else question.kind, ""

    def _last(self, question: Question) -> tuple[str, ...]:
        """Then the answer of each form; of a choice between two, which of them it is."""
        return question.type, question.kind, question.choice or question.answer

    def _seen(self, question: Question) -> tuple[int, int]:
        return self.counts[self._first(question)], self.counts[self._last(question)]


def question_text(question: Question) -> str:
    """The question in words."""
    return _WORDS[question.type, question.kind].format(*question.args)


_WORDS: dict[tuple[str, str], str] = {
    ("count", "all"): "How many things are there?",
    ("count", "color"): "How many {0} things are there?",
    ("count", "shape"): "How many {0} are there?",
    ("exist", "present"): "Is there {0}?",
    ("exist", "near"): "Is there {0}?",
    ("exist", "absent"): "Is there {0}?",
    ("attribute", "color"): "What color is the {0}?",
    ("attribute", "shape"): "What shape is the {0}?",
    ("attribute", "size"): "What size is the {0}?",
    ("attribute", "place"): "Where is the {0}?",
    ("relation", "column"): "In which column is the {0}?",
    ("relation", "row"): "In which row is the {0}?",
    **{("relation", kind): f"Which is {words}, the {{0}} or the {{1}}?" for kind, words in WHICH.items()},
    ("compare", "larger"): "Which is larger, the {0} or the {1}?",
    ("compare", "smaller"): "Which is smaller, the {0} or the {1}?",
    ("compare", "more"): "Which are there more of, {0} or {1}?",
}


def _indices(scene: Scene, keep: Callable[[Thing], bool]) -> tuple[int, ...]:
    return tuple(i for i, t in enumerate(scene.things) if keep(t))


def _count(scene: Scene) -> Iterator[Question]:
    yield Question("count", "all", (), tuple(range(len(scene.things))), NUMBERS[len(scene.things)])
    for colour in COLOURS:
        found = _indices(scene, lambda t, c=colour: t.colour == c)  # type: ignore[misc]
        yield Question("count", "color", (colour,), found, NUMBERS[len(found)])
    for shape in SHAPES:
        found = _indices(scene, lambda t, s=shape: t.shape == s)  # type: ignore[misc]
        yield Question("count", "shape", (plural(shape),), found, NUMBERS[len(found)])


def _exist(scene: Scene) -> Iterator[Question]:
    """Pairs of colour and shape. What is denied has its colour or its shape in the scene, or neither."""
    colours, shapes = {t.colour for t in scene.things}, {t.shape for t in scene.things}
    pairs = {(t.colour, t.shape) for t in scene.things}
    for colour in COLOURS:
        for shape in SHAPES:
            found = _indices(scene, lambda t, s=shape: t.shape == s)  # type: ignore[misc]
            apart = (colour in colours) + (shape in shapes)
            if (colour, shape) in pairs:
                yield Question("exist", "present", (a(f"{colour} {shape}"),), found, "yes")
            elif apart < 2:  # not both, on different things: telling what belongs together is what captions are for
                yield Question("exist", ("absent", "near")[apart], (a(f"{colour} {shape}"),), found, "no")


def _attribute(scene: Scene) -> Iterator[Question]:
    """One attribute, or the place, of a thing that the other words single out: the fewest that do."""
    for i, t in enumerate(scene.things):
        references = {
            "color": (t.shape, f"{t.size} {t.shape}", f"{t.size} thing"),
            "shape": (f"{t.colour} thing", f"{t.size} {t.colour} thing", f"{t.size} thing"),
            "size": _sizeless_references(t),
            "place": _sizeless_references(t),
        }
        truth = {"color": t.colour, "shape": t.shape, "size": t.size, "place": scene.region(t)}
        for kind, options in references.items():
            if words := first_unique(scene, *options):
                yield Question("attribute", kind, (words,), (i,), truth[kind])


def _sizeless_references(t: Thing) -> tuple[str, str, str]:
    """From short to long: a small model matches one word with certainty, and two hardly."""
    return t.shape, f"{t.colour} thing", f"{t.colour} {t.shape}"


def matching(scene: Scene, reference: str) -> tuple[int, ...]:
    """The indices of the things that a reference such as `large red thing` fits."""
    words = set(reference.split()) - {"thing"}
    return _indices(scene, lambda t: words <= set(t.attributes))


def _relation(scene: Scene) -> Iterator[Question]:
    """A thing's column or row; which of two things in different columns or rows comes first."""
    names = [first_unique(scene, *_sizeless_references(t), full_name(t)) for t in scene.things]
    for i, t in enumerate(scene.things):
        yield Question("relation", "column", (names[i],), (i,), COLUMNS[scene.column(t)])
        yield Question("relation", "row", (names[i],), (i,), ROWS[scene.row(t)])
    for i, j in permutations(range(len(scene.things)), 2):
        pair = (names[i], names[j])
        columns = scene.column(scene.things[j]) - scene.column(scene.things[i])
        rows = scene.row(scene.things[j]) - scene.row(scene.things[i])
        for kind, ahead in (("left", columns), ("right", -columns), ("above", rows), ("below", -rows)):
            if ahead:
                yield Question("relation", kind, pair, (i, j), pair[ahead < 0])


def _compare(scene: Scene) -> Iterator[Question]:
    """Of two shapes the one with more things; of two things of different sizes the larger or the smaller one."""
    groups = {plural(shape): _indices(scene, lambda t, s=shape: t.shape == s) for shape in SHAPES}  # type: ignore[misc]
    for pair in permutations(groups, 2):
        numbers = [len(groups[many]) for many in pair]
        if numbers[0] != numbers[1]:
            answer = pair[numbers[0] < numbers[1]]
            yield Question("compare", "more", pair, groups[pair[0]] + groups[pair[1]], answer)
    names = [first_unique(scene, *_sizeless_references(t)) for t in scene.things]
    for i, j in permutations(range(len(scene.things)), 2):
        first, second, pair = scene.things[i], scene.things[j], (names[i], names[j])
        if all(pair) and first.size != second.size:
            for kind, size in (("larger", "large"), ("smaller", "small")):
                yield Question("compare", kind, pair, (i, j), pair[first.size != size])


def first_unique(scene: Scene, *references: str) -> str:
    """The first reference that fits exactly one thing, or nothing."""
    return next((r for r in references if len(matching(scene, r)) == 1), "")


_FORMS: dict[str, Callable[[Scene], Iterator[Question]]] = {
    "count": _count,
    "exist": _exist,
    "attribute": _attribute,
    "relation": _relation,
    "compare": _compare,
}

"""Questions about a scene with true answers: all possible questions, and sampling with balanced answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

from sicog.mini.scene import COLOURS, COLUMNS, HELD_OUT, ROWS, SHAPES, Scene, Thing, choose
from sicog.mini.text import NUMBERS, a, full_name, plural

QUESTION_TYPES = ("count", "exist", "attribute", "relation", "compare")
# "Which is ..., the A or the B?": the order of rows or columns in which the first is the answer, and the words.
WHICH = {"left": "further left", "right": "further right", "above": "higher", "below": "lower"}


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    type: group in evaluation; kind: form within the type; args: words that fill the form; things: indices of the
    scene's things that the answer depends on.
    """

    type: str
    kind: str
    args: tuple[str, ...]
    things: tuple[int, ...]
    answer: str

    @property
    def choice(self) -> str:
        """Return `first` or `second` if one of the two named things is the answer, else an empty text."""
        return ("first", "second")[self.args.index(self.answer)] if self.answer in self.args else ""

    @property
    def names_held_out(self) -> bool:
        """Return whether it names a held-out pair of colour and shape."""
        return any(colour in arg.split() and shape in arg.split() for arg in self.args for colour, shape in HELD_OUT)


def all_questions(scene: Scene, type_: str, *, name_held_out: bool) -> list[Question]:
    """Return all questions of this type about the scene.

    With `name_held_out` false no question names a held-out pair, not even to deny it, because that would be a label.
    """
    found = _FORMS[type_](scene)
    return [q for q in found if name_held_out or not q.names_held_out]


class BalancedDraw:
    """Samples questions of one split with balanced answers; the result depends on the order of calls.

    Of a scene's questions, the one with the rarest answer so far is taken. Yes/no questions are balanced per type, then
    all questions per form and answer, so that the form alone does not reveal the answer.
    """

    def __init__(self, *, name_held_out: bool) -> None:
        self.name_held_out = name_held_out
        self.counts: Counter[tuple[str, ...]] = Counter()

    def draw(self, scene: Scene, type_: str) -> Question:
        """Return one question of the type. Every scene allows every type."""
        options = all_questions(scene, type_, name_held_out=self.name_held_out)
        assert options, f"nothing of type {type_} to ask of {scene.id}"
        rarest = min(self._counts_so_far(q) for q in options)
        question = choose([q for q in options if self._counts_so_far(q) == rarest], scene.id, "draw", type_)
        self.counts[self._second_key(question)] += 1
        self.counts[self._first_key(question)] += 1
        return question

    def _first_key(self, question: Question) -> tuple[str, ...]:
        """Return the first balancing key: the answer of yes/no questions, else the form; empty for counts."""
        if question.type == "count":
            return question.type, "", ""
        return question.type, question.answer if question.type == "exist" else question.kind, ""

    def _second_key(self, question: Question) -> tuple[str, ...]:
        """Return the second balancing key: the answer within the form; for a choice, first or second."""
        return question.type, question.kind, question.choice or question.answer

    def _counts_so_far(self, question: Question) -> tuple[int, int]:
        return self.counts[self._first_key(question)], self.counts[self._second_key(question)]


def question_text(question: Question) -> str:
    """Return the question in words."""
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
    """Yield questions about pairs of colour and shape. A denied pair shares a colour, a shape, or nothing."""
    colours, shapes = {t.colour for t in scene.things}, {t.shape for t in scene.things}
    pairs = {(t.colour, t.shape) for t in scene.things}
    for colour in COLOURS:
        for shape in SHAPES:
            found = _indices(scene, lambda t, s=shape: t.shape == s)  # type: ignore[misc]
            apart = (colour in colours) + (shape in shapes)
            if (colour, shape) in pairs:
                yield Question("exist", "present", (a(f"{colour} {shape}"),), found, "yes")
            elif apart < 2:  # not both on different things: binding of attributes is for captions
                yield Question("exist", ("absent", "near")[apart], (a(f"{colour} {shape}"),), found, "no")


def _attribute(scene: Scene) -> Iterator[Question]:
    """Yield questions about one attribute, or the place, of a thing that the fewest other words identify."""
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
    """Return references from short to long: a small model matches one word reliably, two words hardly."""
    return t.shape, f"{t.colour} thing", f"{t.colour} {t.shape}"


def matching_things(scene: Scene, reference: str) -> tuple[int, ...]:
    """Return the indices of the things that match a reference such as `large red thing`."""
    words = set(reference.split()) - {"thing"}
    return _indices(scene, lambda t: words <= set(t.attributes))


def _relation(scene: Scene) -> Iterator[Question]:
    """Yield questions about a thing's column or row, and which of two things comes first."""
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
    """Yield questions on which of two shapes has more things, and which of two things is larger or smaller."""
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
    """Return the first reference that matches exactly one thing, or an empty text."""
    return next((r for r in references if len(matching_things(scene, r)) == 1), "")


_FORMS: dict[str, Callable[[Scene], Iterator[Question]]] = {
    "count": _count,
    "exist": _exist,
    "attribute": _attribute,
    "relation": _relation,
    "compare": _compare,
}

"""Questions about a scene with their true answers: all that can be asked, and a draw that balances the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

from sicog.mini.scene import COLOURS, HELD_OUT, SHAPES, Scene, Thing, choose
from sicog.mini.text import NUMBERS, a, name, plural

QUESTION_TYPES = ("count", "exist", "attribute", "relation", "compare")
SIDES = {"left": "on the left side", "right": "on the right side", "top": "at the top"}


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
    def asks_of_held_out(self) -> bool:
        """Whether it names a held-out pair of colour and shape."""
        return any(colour in arg.split() and shape in arg.split() for arg in self.args for colour, shape in HELD_OUT)


def yes_or_no(truth: bool) -> str:
    """The answer to a yes/no question."""
    return "yes" if truth else "no"


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
        self.counts[type_, question.kind, question.answer] += 1
        self.counts[self._first(question)] += 1
        return question

    def _first(self, question: Question) -> tuple[str, str]:
        """What is balanced first: the answer of yes/no questions, the form of attribute questions."""
        if question.type == "count":
            return question.type, ""
        return question.type, question.kind if question.type == "attribute" else question.answer

    def _seen(self, question: Question) -> tuple[int, int]:
        return self.counts[self._first(question)], self.counts[question.type, question.kind, question.answer]


def question_text(question: Question, key: str) -> str:
    """The question in words; the wording varies with the key (the question's id)."""
    phrasings = _PHRASINGS[question.type, question.kind]
    return choose(phrasings, key, "question").format(*question.args)


_PHRASINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("count", "all"): ("How many things are there?", "How many things are in the image?"),
    ("count", "color"): ("How many {0} things are there?", "How many {0} things are in the image?"),
    ("count", "shape"): ("How many {0} are there?", "How many {0} are in the image?"),
    ("exist", "present"): ("Is there {0}?", "Is there {0} in the image?"),
    ("exist", "swapped"): ("Is there {0}?", "Is there {0} in the image?"),
    ("exist", "near"): ("Is there {0}?", "Is there {0} in the image?"),
    ("attribute", "color"): ("What color is the {0}?", "What is the color of the {0}?"),
    ("attribute", "shape"): ("What shape is the {0}?", "What is the shape of the {0}?"),
    ("attribute", "size"): ("What size is the {0}?", "What is the size of the {0}?"),
    ("relation", "left"): ("Is the {0} to the left of the {1}?",),
    ("relation", "right"): ("Is the {0} to the right of the {1}?",),
    ("relation", "above"): ("Is the {0} above the {1}?",),
    ("relation", "side"): ("Is the {0} {1} of the image?",),
    ("compare", "more"): ("Are there more {0} than {1}?",),
    ("compare", "larger"): ("Is the {0} larger than the {1}?",),
    ("compare", "same color"): ("Are the {0} and the {1} the same color?",),
    ("compare", "same shape"): ("Are the {0} and the {1} the same shape?",),
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
    """Pairs of colour and shape. What is denied has its colour or its shape in the scene, or both apart."""
    colours, shapes = {t.colour for t in scene.things}, {t.shape for t in scene.things}
    pairs = {(t.colour, t.shape) for t in scene.things}
    for colour in COLOURS:
        for shape in SHAPES:
            found = _indices(scene, lambda t, s=shape: t.shape == s)  # type: ignore[misc]
            if (colour, shape) in pairs:
                yield Question("exist", "present", (a(f"{colour} {shape}"),), found, "yes")
            elif colour in colours or shape in shapes:
                kind = "swapped" if colour in colours and shape in shapes else "near"
                yield Question("exist", kind, (a(f"{colour} {shape}"),), found, "no")


def _attribute(scene: Scene) -> Iterator[Question]:
    """One attribute of a thing that the other words single out."""
    for i, t in enumerate(scene.things):
        references = {
            "color": (t.shape, f"{t.size} {t.shape}", f"{t.size} thing"),
            "shape": (f"{t.colour} thing", f"{t.size} {t.colour} thing", f"{t.size} thing"),
            "size": (t.shape, f"{t.colour} {t.shape}", f"{t.colour} thing"),
        }
        truth = {"color": t.colour, "shape": t.shape, "size": t.size}
        for kind, options in references.items():
            for words in options:
                if matching(scene, words) == (i,):
                    yield Question("attribute", kind, (words,), (i,), truth[kind])


def matching(scene: Scene, reference: str) -> tuple[int, ...]:
    """The indices of the things that a reference such as `large red thing` fits."""
    words = set(reference.split()) - {"thing"}
    return _indices(scene, lambda t: words <= set(t.attributes))


def _relation(scene: Scene) -> Iterator[Question]:
    """Between two things that stand in different columns or rows; of a lone thing, its side of the image."""
    if len(scene.things) == 1:
        region = scene.region(scene.things[0]).split()
        for side, words in SIDES.items():
            yield Question("relation", "side", (name(scene, scene.things[0]), words), (0,), yes_or_no(side in region))
    for i, j in permutations(range(len(scene.things)), 2):
        first, second = scene.things[i], scene.things[j]
        names = (name(scene, first), name(scene, second))
        if (columns := scene.column(second) - scene.column(first)) != 0:
            yield Question("relation", "left", names, (i, j), yes_or_no(columns > 0))
            yield Question("relation", "right", names, (i, j), yes_or_no(columns < 0))
        if (rows := scene.row(second) - scene.row(first)) != 0:
            yield Question("relation", "above", names, (i, j), yes_or_no(rows > 0))


def _compare(scene: Scene) -> Iterator[Question]:
    """Numbers of two shapes or colours of which at least one is present; sizes, colours, shapes of two things."""
    groups: dict[str, tuple[int, ...]] = {}
    for shape in SHAPES:
        groups[plural(shape)] = _indices(scene, lambda t, s=shape: t.shape == s)  # type: ignore[misc]
    for colour in COLOURS:
        groups[f"{colour} things"] = _indices(scene, lambda t, c=colour: t.colour == c)  # type: ignore[misc]
    for one, other in permutations(groups, 2):
        same_sort = one.endswith(" things") == other.endswith(" things")
        if same_sort and (groups[one] or groups[other]):
            truth = len(groups[one]) > len(groups[other])
            yield Question("compare", "more", (one, other), groups[one] + groups[other], yes_or_no(truth))
    for i, j in permutations(range(len(scene.things)), 2):
        first, second = scene.things[i], scene.things[j]
        pair, things = (_sizeless(scene, first), _sizeless(scene, second)), (i, j)
        if all(pair):
            truth = (first.size, second.size) == ("large", "small")
            yield Question("compare", "larger", pair, things, yes_or_no(truth))
        for kind, names, truth in (
            ("same color", (_colourless(scene, first), _colourless(scene, second)), first.colour == second.colour),
            ("same shape", (_shapeless(scene, first), _shapeless(scene, second)), first.shape == second.shape),
        ):
            if all(names):
                yield Question("compare", kind, names, things, yes_or_no(truth))


def _first_unique(scene: Scene, *references: str) -> str:
    """The first reference that fits exactly one thing, or nothing."""
    return next((r for r in references if len(matching(scene, r)) == 1), "")


def _sizeless(scene: Scene, t: Thing) -> str:
    return _first_unique(scene, f"{t.colour} {t.shape}")


def _colourless(scene: Scene, t: Thing) -> str:
    return _first_unique(scene, t.shape, f"{t.size} {t.shape}")


def _shapeless(scene: Scene, t: Thing) -> str:
    return _first_unique(scene, f"{t.colour} thing", f"{t.size} {t.colour} thing")


_FORMS: dict[str, Callable[[Scene], Iterator[Question]]] = {
    "count": _count,
    "exist": _exist,
    "attribute": _attribute,
    "relation": _relation,
    "compare": _compare,
}

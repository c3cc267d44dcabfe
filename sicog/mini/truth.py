"""Ground truth of the mini world on disk, and what a model wrote held against it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from sicog.answers import final_answer
from sicog.chains import COD, ChainError, parse
from sicog.mini.scene import COLOURS, COLUMNS, ROWS, SHAPES, SIZES, Scene


@dataclass(frozen=True)
class QuestionTruth:
    """A question as it was asked. `held_out`: it names a held-out pair, or its answer rests on such a thing."""

    id: str
    type: str
    kind: str
    question: str
    answer: str
    held_out: bool

    @property
    def choice(self) -> str:
        """`first` or `second` where the question names two answers, else the answer."""
        words = self.question.rstrip("?")
        if f" {self.answer} or " in words:
            return "first"
        return "second" if " or " in words and words.endswith(f" {self.answer}") else self.answer


@dataclass(frozen=True)
class SceneTruth:
    """All that is true of one image. `held_out`: the scene holds a held-out pair of colour and shape."""

    scene: Scene
    image: str
    held_out: bool
    questions: tuple[QuestionTruth, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` reads it back."""
        return {
            "id": self.scene.id,
            "image": self.image,
            "held_out": self.held_out,
            "scene": self.scene.to_json(),
            "questions": [asdict(q) for q in self.questions],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SceneTruth:
        """The truth that `to_json` wrote."""
        questions = tuple(QuestionTruth(**q) for q in value["questions"])
        return cls(Scene.from_json(value["scene"]), value["image"], value["held_out"], questions)


def truth_file(folder: Path, split: str) -> Path:
    """Where the truth of a split lies in a mini data folder."""
    return folder / "truth" / f"{split}.jsonl"


def read_truth(folder: Path, split: str) -> dict[str, SceneTruth]:
    """The truth of a split by image id: for evaluation and report, and of `warmup_captions` for the teacher."""
    path = truth_file(folder, split)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `sicog mini-data --out {folder}` writes it")
    truths = [SceneTruth.from_json(orjson.loads(line)) for line in path.read_bytes().splitlines()]
    return {t.scene.id: t for t in truths}


_MENTION = re.compile(rf"\b({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:s|es)?\b", re.IGNORECASE)
_PLACED = re.compile(_MENTION.pattern + rf" at the ({'|'.join(ROWS)}) ({'|'.join(COLUMNS)})\b", re.IGNORECASE)
_A_STEP = re.compile(r"^Step \d+:", re.MULTILINE)


def caption_things(text: str) -> list[tuple[str, str, str]]:
    """The distinct (size, colour, shape) that a caption states, in order of their first mention.

    Of a chain of description only the last step counts; of a chain that is cut or broken, nothing.
    """
    found = (m.groups() for m in _MENTION.finditer(_stated(text)))
    return list(dict.fromkeys((size.lower(), colour.lower(), shape.lower()) for size, colour, shape in found))


def caption_places(text: str) -> dict[tuple[str, str, str], str]:
    """The region that a caption first states for a (size, colour, shape), where it states one."""
    places: dict[tuple[str, str, str], str] = {}
    for m in _PLACED.finditer(_stated(text)):
        size, colour, shape, row, column = (word.lower() for word in m.groups())
        places.setdefault((size, colour, shape), f"{row} {column}")
    return places


def stated_span(text: str) -> tuple[int, int]:
    """Start and end of what a caption states: all of it, of a chain of description its last step, of a broken chain
    nothing."""
    if not _A_STEP.search(text):
        return 0, len(text)
    try:
        body = parse(COD, text)[-1]
    except ChainError:
        return 0, 0
    start = text.rindex(body)
    return start, start + len(body)


def _stated(text: str) -> str:
    start, end = stated_span(text)
    return text[start:end]


class CaptionScores(NamedTuple):
    """How a caption's objects agree with the scene's."""

    precision: float
    recall: float
    f1: float


def placed_f1(text: str, scene: Scene) -> float:
    """F1 of the stated objects, each with its region; one that is named without a region or at another is wrong."""
    stated = {(thing, caption_places(text).get(thing)) for thing in caption_things(text)}
    true = {(t.attributes, scene.region(t)) for t in scene.things}
    return 2 * len(stated & true) / max(1, len(stated) + len(true))


def caption_scores(text: str, scene: Scene) -> CaptionScores:
    """Precision, recall and F1 of the stated objects; an object is size, colour and shape. Nothing stated gives 0."""
    stated, true = set(caption_things(text)), {t.attributes for t in scene.things}
    hits = len(stated & true)
    if not hits:
        return CaptionScores(0.0, 0.0, 0.0)
    return CaptionScores(hits / len(stated), hits / len(true), 2 * hits / (len(stated) + len(true)))


def places_right(text: str, scene: Scene) -> list[bool]:
    """For each thing of the scene that the caption names rightly: whether the region stated with it is right too."""
    stated, at = caption_places(text), {t.attributes: scene.region(t) for t in scene.things}
    return [stated.get(thing) == at[thing] for thing in caption_things(text) if thing in at]


def chance(asked: Iterable[tuple[str, str, str]]) -> dict[str, float]:
    """By type, and `all`: how often the commonest answer of a question's form is right, which needs no image.

    asked: (type, form, answer) of each question; where two answers are named, which of them is right.
    """
    answers: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for type_, form, answer in asked:
        answers[type_][form][answer] += 1
    most = {t: sum(max(c.values()) for c in forms.values()) for t, forms in answers.items()}
    total = {t: sum(c.total() for c in forms.values()) for t, forms in answers.items()}
    return {"all": sum(most.values()) / sum(total.values()), **{t: most[t] / total[t] for t in sorted(total)}}


def form(type_: str, kind: str) -> str:
    """What the words of a question show of its kind: `exist` has three kinds that are asked alike."""
    return type_ if type_ == "exist" else kind


def answer_is_right(text: str, truth: str, question: str = "") -> bool:
    """Whether a short answer (the last step of a chain of thought) is the true one, after normalisation."""
    return final_answer(text, question) == final_answer(truth, question)

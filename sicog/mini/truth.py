"""Ground truth of the mini world on disk, and metrics of a model's texts against it."""

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
    """A question with its answer. `held_out`: it names a held-out pair, or its answer depends on such a thing."""

    id: str
    type: str
    kind: str
    question: str
    answer: str
    held_out: bool

    @property
    def choice(self) -> str:
        """Return `first` or `second` if the question names two answers, else the answer."""
        words = self.question.rstrip("?")
        if f" {self.answer} or " in words:
            return "first"
        return "second" if " or " in words and words.endswith(f" {self.answer}") else self.answer


@dataclass(frozen=True)
class SceneTruth:
    """The ground truth of one image. `held_out`: the scene has a held-out pair of colour and shape."""

    scene: Scene
    image: str
    held_out: bool
    questions: tuple[QuestionTruth, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; `from_json` reads it back."""
        return {
            "id": self.scene.id,
            "image": self.image,
            "held_out": self.held_out,
            "scene": self.scene.to_json(),
            "questions": [asdict(q) for q in self.questions],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SceneTruth:
        """Return the truth that `to_json` wrote."""
        questions = tuple(QuestionTruth(**q) for q in value["questions"])
        return cls(Scene.from_json(value["scene"]), value["image"], value["held_out"], questions)


def truth_file(folder: Path, split: str) -> Path:
    """Return the truth file of a split in a mini data folder."""
    return folder / "truth" / f"{split}.jsonl"


def read_truth(folder: Path, split: str) -> dict[str, SceneTruth]:
    """Return the truth of a split by image id, for evaluation and report, and (`warmup_captions`) for the teacher."""
    path = truth_file(folder, split)
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Run `sicog mini-data --out {folder}` to write it")
    truths = [SceneTruth.from_json(orjson.loads(line)) for line in path.read_bytes().splitlines()]
    return {t.scene.id: t for t in truths}


_MENTION = re.compile(rf"\b({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:s|es)?\b", re.IGNORECASE)
_PLACED = re.compile(_MENTION.pattern + rf" at the ({'|'.join(ROWS)}) ({'|'.join(COLUMNS)})\b", re.IGNORECASE)
_A_STEP = re.compile(r"^Step \d+:", re.MULTILINE)


def caption_things(text: str) -> list[tuple[str, str, str]]:
    """Return the distinct (size, colour, shape) that a caption states, in order of their first mention.

    Of a chain of description only the last step counts; a broken chain states nothing.
    """
    found = (m.groups() for m in _MENTION.finditer(_stated_text(text)))
    return list(dict.fromkeys((size.lower(), colour.lower(), shape.lower()) for size, colour, shape in found))


def caption_places(text: str) -> dict[tuple[str, str, str], str]:
    """Return the first stated region of each (size, colour, shape) that has one."""
    places: dict[tuple[str, str, str], str] = {}
    for m in _PLACED.finditer(_stated_text(text)):
        size, colour, shape, row, column = (word.lower() for word in m.groups())
        places.setdefault((size, colour, shape), f"{row} {column}")
    return places


def stated_span(text: str) -> tuple[int, int]:
    """Return start and end of the stated part: the caption, the last step of a chain, nothing of a broken chain."""
    if not _A_STEP.search(text):
        return 0, len(text)
    try:
        body = parse(COD, text)[-1]
    except ChainError:
        return 0, 0
    start = text.rindex(body)
    return start, start + len(body)


def _stated_text(text: str) -> str:
    start, end = stated_span(text)
    return text[start:end]


class CaptionScores(NamedTuple):
    """Agreement of a caption's objects with the scene's objects."""

    precision: float
    recall: float
    f1: float


def placed_f1(text: str, scene: Scene) -> float:
    """Return F1 of the stated objects with their regions; an object with no region or a wrong one is wrong."""
    stated = {(thing, caption_places(text).get(thing)) for thing in caption_things(text)}
    true = {(t.attributes, scene.region(t)) for t in scene.things}
    return 2 * len(stated & true) / max(1, len(stated) + len(true))


def caption_scores(text: str, scene: Scene) -> CaptionScores:
    """Return precision, recall and F1 of the stated objects (size, colour, shape); 0 if nothing is stated."""
    stated, true = set(caption_things(text)), {t.attributes for t in scene.things}
    hits = len(stated & true)
    if not hits:
        return CaptionScores(0.0, 0.0, 0.0)
    return CaptionScores(hits / len(stated), hits / len(true), 2 * hits / (len(stated) + len(true)))


def correct_places(text: str, scene: Scene) -> list[bool]:
    """Return, for each correctly named thing, whether its stated region is correct too."""
    stated, at = caption_places(text), {t.attributes: scene.region(t) for t in scene.things}
    return [stated.get(thing) == at[thing] for thing in caption_things(text) if thing in at]


def chance_accuracy(asked: Iterable[tuple[str, str, str]]) -> dict[str, float]:
    """Return by type, and for `all`, the accuracy of the most frequent answer of each form, which needs no image.

    asked: (type, form, answer) of each question; if a question names two answers, which of them is right.
    """
    answers: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for type_, form, answer in asked:
        answers[type_][form][answer] += 1
    most = {t: sum(max(c.values()) for c in forms.values()) for t, forms in answers.items()}
    total = {t: sum(c.total() for c in forms.values()) for t, forms in answers.items()}
    return {"all": sum(most.values()) / sum(total.values()), **{t: most[t] / total[t] for t in sorted(total)}}


def form(type_: str, kind: str) -> str:
    """Return the kind of a question as visible in its words: three kinds of `exist` have the same words."""
    return type_ if type_ == "exist" else kind


def answer_is_right(text: str, truth: str, question: str = "") -> bool:
    """Return whether a short answer (the last step of a chain of thought) is correct after normalisation."""
    return final_answer(text, question) == final_answer(truth, question)

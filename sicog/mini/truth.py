"""Ground truth of the mini world on disk, and what a model wrote held against it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from sicog.answers import final_answer
from sicog.chains import COD, ChainError, parse
from sicog.mini.scene import COLOURS, SHAPES, SIZES, Scene


@dataclass(frozen=True)
class QuestionTruth:
    """A question as it was asked. `held_out`: it names a held-out pair, or its answer rests on such a thing."""

    id: str
    type: str
    kind: str
    question: str
    answer: str
    held_out: bool


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
_A_STEP = re.compile(r"^Step \d+:", re.MULTILINE)


def caption_things(text: str) -> list[tuple[str, str, str]]:
    """The distinct (size, colour, shape) that a caption states, in order of their first mention.

    Of a chain of description only the last step counts; of a chain that is cut or broken, nothing.
    """
    if _A_STEP.search(text):
        try:
            text = parse(COD, text)[-1]
        except ChainError:
            return []
    found = (m.groups() for m in _MENTION.finditer(text))
    return list(dict.fromkeys((size.lower(), colour.lower(), shape.lower()) for size, colour, shape in found))


class CaptionScores(NamedTuple):
    """How a caption's objects agree with the scene's."""

    precision: float
    recall: float
    f1: float


def caption_scores(text: str, scene: Scene) -> CaptionScores:
    """Precision, recall and F1 of the stated objects; an object is size, colour and shape. Nothing stated gives 0."""
    stated, true = set(caption_things(text)), {t.attributes for t in scene.things}
    hits = len(stated & true)
    if not hits:
        return CaptionScores(0.0, 0.0, 0.0)
    return CaptionScores(hits / len(stated), hits / len(true), 2 * hits / (len(stated) + len(true)))


def answer_is_right(text: str, truth: str, question: str = "") -> bool:
    """Whether a short answer (the last step of a chain of thought) is the true one, after normalisation."""
    return final_answer(text, question) == final_answer(truth, question)

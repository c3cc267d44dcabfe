"""`lab-perfect`: rows made of a mini run's candidates, with the truth in place of what the model wrote.

Models trained on them show what the bench can show at most: no choice among candidates gives truer rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sicog.config import Config
from sicog.mini.dataset import asked_of
from sicog.mini.questions import Question
from sicog.mini.reasoning import cot_text
from sicog.mini.scene import Scene
from sicog.mini.text import cod_caption, detailed_description
from sicog.mini.truth import read_truth
from sicog.pipeline import FolderSource, Outcome, run_stage
from sicog.records import Example, Turn

STEP = "lab-perfect"


class PerfectConfig(Config):
    """Config of `lab-perfect`. input: examples that `select` made of candidates. data: the mini world's folder."""

    input: Path
    data: Path
    out_dir: Path


def perfect(config: PerfectConfig) -> Path:
    """Write the dataset `out_dir` of `Example`, row for row; returns it.

    Raises `ValueError` for a row that is of no unlabelled image or question of `data`, or has no style of the tasks'.
    """
    scenes = {image: truth.scene for image, truth in read_truth(config.data, "unlabelled").items()}
    return run_stage(
        step=STEP,
        out_dir=config.out_dir,
        source=FolderSource(config.input, Example),
        process=_Truth(scenes, asked_of(config.data, "unlabelled")),
        config=config,
        inputs={"rows": config.input, "world": config.data / "config.json"},
    )


@dataclass(frozen=True)
class _Truth:
    """The process of the stage: scenes by id, and scene and question by the question's id."""

    scenes: Mapping[str, Scene]
    asked: Mapping[str, tuple[Scene, Question]]

    def __call__(self, block: Sequence[Example]) -> list[Outcome]:
        return [(self._one(row),) for row in block]

    def _one(self, row: Example) -> Example:
        answer = Turn(role="assistant", text=self._text(row))
        return row.model_copy(update={"turns": (*row.turns[:-1], answer)})

    def _text(self, row: Example) -> str:
        style = row.extra.get("style")
        if row.id in self.scenes and style in ("cod", "dd"):
            return (cod_caption if style == "cod" else detailed_description)(self.scenes[row.id])
        asked = self.asked.get(row.id.partition("~")[0])  # `ID~direct` is the bare answer of ID's chain
        if asked and style in ("cot", "direct"):
            scene, question = asked
            return cot_text(scene, question) if style == "cot" else question.answer
        raise ValueError(
            f"row {row.id}, style {style!r}: the mini world knows no truth of it; was it made of this run?"
        )

"""`lab-perfect`: rows of a mini world's unlabelled images with true texts, or with mistakes at a given rate.

Models trained on true texts show the maximum gain: no selection gives better rows. With mistakes at the rate of a run's
own labels, they show how much of the gain the wrong labels cost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.curation.score.self_consistency import hash128
from sicog.mini.mistakes import mistaken_answer, mistaken_scene
from sicog.mini.questions import Question, question_text
from sicog.mini.reasoning import cot_text
from sicog.mini.scene import Scene, digest
from sicog.mini.text import CAPTION_QUESTION, cod_caption, detailed_description
from sicog.mini.truth import read_truth
from sicog.mini.write_world import image_path, questions_by_id
from sicog.records import Example, Query, Turn
from sicog.runs.gap import GAP
from sicog.stages.reader import FolderSource, Source
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Outcome
from sicog.stages.storage import read_json
from sicog.tasks import CAPTIONING, REASONING, TASKS

STEP = "lab-perfect"
Task = Literal["captioning", "reasoning"]
Share = Annotated[float, Field(ge=0, lt=1)]


class PerfectConfig(Config):
    """Config of `lab-perfect`."""

    data: Path
    """The mini world's folder."""
    out_dir: Path
    input: Path | None = None
    """Examples of `select`, whose texts are replaced; null: a description of every unlabelled image, and a chain and a
    bare answer for each of its questions."""
    n: int | None = Field(default=None, ge=1)
    """Number of these rows, sampled by the seed; null: all."""
    mistakes: dict[Task, Share] = {}
    """Share of wrong things in captions and of wrong answers, by task."""
    mistakes_of: dict[Task, Path] = {}
    """Folder of a `mini-gap` by task; its measured rate of mistakes is used."""
    seed: int = 0

    @model_validator(mode="after")
    def _check_rates(self) -> PerfectConfig:
        if both := sorted(self.mistakes.keys() & self.mistakes_of.keys()):
            raise ValueError(f"mistakes and mistakes_of both have a rate for {both[0]}. Remove one")
        if self.n is not None and self.input is not None:
            raise ValueError("n cannot be set together with input: all rows of input are used. Remove n")
        return self


def perfect(config: PerfectConfig) -> Path:
    """Write the dataset `out_dir` of `Example`; returns it.

    Raises `ValueError` for a row without an unlabelled image or question in `data`, for a row of an unknown style, for
    too large an `n`, and for a gap without a truth.
    """
    scenes = {image: truth.scene for image, truth in read_truth(config.data, "unlabelled").items()}
    asked = questions_by_id(config.data, "unlabelled")
    source: Source[Example] = (
        FolderSource(config.input, Example)
        if config.input
        else _SampledRows(_all_rows(scenes, asked), config.n, config.seed)
    )
    rates = {task: measured_rate(folder) for task, folder in config.mistakes_of.items()} | config.mistakes
    inputs = {"world": config.data / "config.json"} | ({"rows": config.input} if config.input else {})
    return run_stage(
        Stage(
            step=STEP,
            out_dir=config.out_dir,
            source=source,
            process=_TrueTexts(scenes, asked, rates, config.seed),
            inputs=inputs | {f"{task} gap": folder / GAP for task, folder in config.mistakes_of.items()},
        ),
        config,
    )


def measured_rate(folder: Path) -> float:
    """Return 1 - the measured truth of a gap's labels. Raises `ValueError` when the gap has no truth."""
    found = read_json(folder / GAP)
    if "label" not in found:
        raise ValueError(f"{folder / GAP} has no truth of its labels. Give the folder of a mini-gap step")
    return max(0.0, 1.0 - float(found["label"]["value"]))


def _all_rows(scenes: Mapping[str, Scene], asked: Mapping[str, tuple[Scene, Question]]) -> list[Example]:
    """Return every row without its text, in the order of the images."""
    rows = [_row(key, scene, "captioning", "dd", CAPTION_QUESTION) for key, scene in scenes.items()]
    for key, (scene, question) in asked.items():
        words = question_text(question)
        rows.append(_row(key, scene, "reasoning", "cot", words))
        plain = REASONING.plain_style
        rows.append(_row(f"{key}~{plain}", scene, "reasoning", plain, words))
    return rows


def _row(row_id: str, scene: Scene, task: Task, style: str, question: str) -> Example:
    query = Query(id=row_id, task=task, question=question, images=(image_path(scene),))
    turns = (
        Turn(role="user", text=TASKS[task].prompt(query, style), images_at=(0,)),
        Turn(role="assistant", text=""),
    )
    return Example(id=row_id, images=query.images, turns=turns, source=task, extra={"style": style})


class _SampledRows(Source[Example]):
    """The n rows with the lowest hash, in their original order."""

    def __init__(self, rows: Sequence[Example], n: int | None, seed: int) -> None:
        if n is not None and n > len(rows):
            raise ValueError(f"n: {n} is larger than {len(rows)}, the rows of the unlabelled split. Lower n")
        order = sorted(range(len(rows)), key=lambda i: hash128(seed, "perfect", rows[i].id))
        self.rows = [rows[i] for i in sorted(order[:n])]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, start: int, stop: int) -> Iterator[Example]:
        """Yield rows start..stop."""
        yield from self.rows[start:stop]


@dataclass(frozen=True)
class _TrueTexts:
    """Process of the stage. Has scenes by id, scene and question by the question's id, rates of mistakes by task."""

    scenes: Mapping[str, Scene]
    asked: Mapping[str, tuple[Scene, Question]]
    rates: Mapping[Task, float]
    seed: int

    def __call__(self, block: Sequence[Example]) -> list[Outcome]:
        return [(self._one(row),) for row in block]

    def _one(self, row: Example) -> Example:
        answer = Turn(role="assistant", text=self._text(row))
        return row.model_copy(update={"turns": (*row.turns[:-1], answer)})

    def _text(self, row: Example) -> str:
        style = row.origin.style
        of = row.id.partition("~")[0]  # `ID~direct` is the bare answer of ID's chain, with the same mistake
        rng = random.Random(digest(self.seed, "mistakes", of))
        if row.id in self.scenes and style in CAPTIONING.styles:
            scene = mistaken_scene(self.scenes[row.id], self.rates.get("captioning", 0.0), rng)
            return (cod_caption if style == "cod" else detailed_description)(scene)
        found = self.asked.get(of)
        if found and style in REASONING.styles:
            scene, question = found
            if rng.random() < self.rates.get("reasoning", 0.0):
                scene, question = mistaken_answer(scene, question, rng)
            return cot_text(scene, question) if style == "cot" else question.answer
        raise ValueError(
            f"row {row.id}, style {style!r}: the mini world has no truth for this row. Give rows of this run"
        )

"""The mini world's own steps of a recipe: write its data, and find thresholds on its development split."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sicog.curation.sweep import SweepConfig, Truth, sweep_scored
from sicog.mini.dataset import MiniDataConfig, total_images, write_mini_data
from sicog.mini.truth import SceneTruth, answer_is_right, caption_scores, read_truth, truth_file
from sicog.provenance import write_run_json
from sicog.records import Query


class MiniDataStep(MiniDataConfig):
    """Counts and seed of the mini world, and where to write it."""

    out_dir: Path


def mini_data(config: MiniDataStep) -> Path:
    """Write the mini world's data folder; a finished one of the same config is left as it is."""
    write_run_json(config.out_dir, step="mini-data", config=config, inputs={})
    settings = MiniDataConfig(**config.model_dump(exclude={"out_dir"}))
    bar = Progress(
        TextColumn("  mini-data"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("", total=total_images(settings))
        manifest = write_mini_data(settings, config.out_dir, lambda: bar.advance(task))
    counts = ", ".join(f"{name} {split['images']}" for name, split in manifest["splits"].items())
    Console(stderr=True).print(f"  mini-data: images per split: {counts}", highlight=False)
    return config.out_dir


class MiniSweepConfig(SweepConfig):
    """A sweep whose truth is the mini world's. data: its folder; split: the split that the scored sets are of."""

    data: Path
    split: Literal["dev", "unlabelled"] = "dev"


def mini_sweep(config: MiniSweepConfig) -> Path:
    """Choose the threshold by the truth of the development split; writes threshold.json."""
    labels = truth_file(config.data, config.split)
    return sweep_scored(config.model_copy(update={"labels": labels}), truth_of(read_truth(config.data, config.split)))


def truth_of(truths: dict[str, SceneTruth]) -> Truth:
    """How true a compared text is: a caption's object F1, 1 or 0 for an answer. Ids of other data are an error."""
    answers = {question.id: question.answer for scene in truths.values() for question in scene.questions}

    def truth(query: Query, text: str) -> float:
        if query.id not in (truths if query.task == "captioning" else answers):
            raise ValueError(f"query {query.id} is not of this split: it has no ground truth")
        if query.task == "captioning":
            return caption_scores(text, truths[query.id].scene).f1
        return float(answer_is_right(text, answers[query.id]))

    return truth

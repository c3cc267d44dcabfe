"""Recipe steps of the mini world: write its data, find thresholds and measure the gap on its development split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from sicog.console import say
from sicog.curation.select.sweep import SweepConfig, Truth, sweep_scored
from sicog.estimates.counts import Counts, InAndOut, Rows
from sicog.mini.truth import SceneTruth, answer_is_right, caption_scores, read_truth, truth_file
from sicog.mini.write_world import MiniDataConfig, total_images, write_mini_data
from sicog.progress import Bar
from sicog.records import Query
from sicog.runs.gap import GapConfig, gap
from sicog.runs.recipe import Step
from sicog.stages.provenance import write_run_json
from sicog.stages.storage import read_json


class MiniDataStep(MiniDataConfig):
    """Config of `mini-data`: counts and seed of the mini world, and its output folder."""

    out_dir: Path


def mini_data(config: MiniDataStep) -> Path:
    """Write the mini world's data folder; a finished one of the same config is not changed."""
    write_run_json(config.out_dir, step="mini-data", config=config, inputs={})
    settings = MiniDataConfig(**config.model_dump(exclude={"out_dir"}))
    with Bar("mini-data", total_images(settings), unit="image", quick_s=60) as bar:
        manifest = write_mini_data(settings, config.out_dir, lambda: bar.add(1))
    counts = ", ".join(f"{name} {split['images']}" for name, split in manifest["splits"].items())
    say(f"mini-data: images per split: {counts}")
    return config.out_dir


class MiniSweepConfig(SweepConfig):
    """A sweep with the mini world's ground truth."""

    data: Path
    """The mini world's folder."""
    split: Literal["dev"] = "dev"
    """The development split only: no threshold may depend on the truth of training or test rows."""


def mini_sweep(config: MiniSweepConfig) -> Path:
    """Choose the threshold with the truth of the development split; writes threshold.json."""
    labels = truth_file(config.data, config.split)
    truth = truth_function(read_truth(config.data, config.split))
    path = sweep_scored(config.model_copy(update={"labels": labels}), truth)
    _warn_out_of_bounds(config, read_json(path))
    return path


class MiniGapConfig(GapConfig):
    """A gap measured with the truth of the development split of `data`, which no training reads."""

    data: Path
    """The mini world's folder."""
    split: Literal["dev"] = "dev"
    """The development split, which no training reads."""

    def check(self) -> None:
        """Accept every config, because there is a truth."""


def mini_gap(config: MiniGapConfig) -> Path:
    """Measure the gap, by type of question; writes gap.json."""
    truths = read_truth(config.data, config.split)
    types = {question.id: question.type for scene in truths.values() for question in scene.questions}
    file = truth_file(config.data, config.split)
    return gap(config, truth_function(truths), lambda query: types.get(query.id, "caption"), truth_file=file)


def _warn_out_of_bounds(config: MiniSweepConfig, found: dict[str, Any]) -> None:
    if not found["within_bounds"]:
        low, high = (f"{100 * share:.0f}" for share in config.keep_share)
        say(
            f"{config.out_dir.name}: no threshold keeps {low} to {high} % of the rows; the nearest, "
            f"{found['threshold']:.4g}, keeps {100 * found['share_kept']:.0f} %",
            style="yellow",
        )


def truth_function(truths: dict[str, SceneTruth]) -> Truth:
    """Return the truth function of compared texts: object F1 of a caption, 1 or 0 for an answer; unknown ids raise."""
    answers = {question.id: question.answer for scene in truths.values() for question in scene.questions}

    def truth(query: Query, text: str) -> float:
        if query.id not in (truths if query.task == "captioning" else answers):
            raise ValueError(
                f"query {query.id} has no ground truth, because it is not of this split. Give rows of the right split"
            )
        if query.task == "captioning":
            return caption_scores(text, truths[query.id].scene).f1
        return float(answer_is_right(text, answers[query.id], query.question))

    return truth


def count_mini_data(counts: Counts, step: Step) -> InAndOut:
    """Remember the number of rows of every file, for the plan of a run."""
    config = step.config
    assert isinstance(config, MiniDataStep)
    n = {"align.json": config.align, "warmup_captions.json": config.warmup_captions}
    n |= {"warmup_reasoning.jsonl": config.warmup_reasoning}
    for split in ("unlabelled", "dev", "test"):
        images = getattr(config, split)
        n |= {f"{split}_images.json": images}
        n |= {f"{split}_questions.json": images * getattr(config, f"{split}_questions")}
    for name, rows in n.items():
        counts.will_hold(step.folder / name, Rows(rows, "from the config"))
    return InAndOut(None, None)

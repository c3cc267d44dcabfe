"""The report of a run (`sicog report`): one self-contained HTML page, results.json with its numbers, a table to read.

It reads what the steps wrote, and needs neither torch nor the steps. Parts that the config leaves out (a run without
ground truth, without evaluations) leave their section out. What report.html shows on request lies beside it: the texts
of all rows under rows/, and how long the steps took in times.js, which alone differs between equal runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from sicog.config import Config
from sicog.records import ScoredSet
from sicog.report import (
    benchmark_table,
    browser,
    browser_rows,
    curated,
    evaluations,
    lineage,
    row_images,
    run_facts,
    terminal,
    times,
)
from sicog.report.browser import Browser, Sample
from sicog.report.curated import Curated, CuratedConfig, SetMarks
from sicog.report.known_truth import Truth
from sicog.report.page import render
from sicog.report.style_mix import Mix
from sicog.stages.provenance import RUN, digest_file, write_run_json
from sicog.stages.storage import MANIFEST, read_json, write_bytes, write_json

PAGE, RESULTS = "report.html", "results.json"


class SlicingConfig(Config):
    """How images are cut, as sicog/model/slicing.py plans it. The default is the full-size model's."""

    scale: int = Field(336, ge=1)
    """A slice has about scale x scale pixels."""
    patch_size: int = Field(14, ge=1)
    """Side of a patch in pixels."""
    max_slices: int = Field(7, ge=1)
    """Slices of an image at most."""


class ReportConfig(Config):
    """Config of the report of a recipe, step `report`."""

    out_dir: Path
    run_dir: Path | None = None
    """A recipe's run folder; null: the folder above `out_dir`."""
    title: str = "A self-improvement run"
    """Title of the page."""
    funnel: tuple[str, ...] = ()
    """Names of steps, which are folders of `run_dir`, whose rows in and out are shown, in this order."""
    training: tuple[str, ...] = ()
    """Names of training steps, in the order to show."""
    speed: bool = False
    """Also how fast the training steps were, which differs each time."""
    captions: CuratedConfig | None = None
    """The curated captions."""
    reasoning: CuratedConfig | None = None
    """The curated reasoning."""
    sets: Mapping[str, CuratedConfig] = {}
    """Further curated tasks, by the name to show."""
    rows: Mapping[str, Path] = {}
    """Other folders of records to look at (candidates, examples, preference pairs), by the name to show."""
    truth: Path | None = None
    """The mini world's truth/unlabelled.jsonl."""
    image_folder: Path | None = None
    """What the images of the records are relative to; null: rows are shown without images."""
    slicing: SlicingConfig | None = None
    """For the slices that are drawn on an image; null: that of the checkpoint which wrote the rows."""
    evaluations: Mapping[str, Path] = {}
    """Evaluation steps by name, in the order to show. `next` is compared with `base` and `control`."""
    times: tuple[str, ...] = ()
    """Steps whose time and cost to show, in order; empty: all of the recipe."""
    benchmarks: Path | None = None
    """The folder of `sicog results`: benchmarks of several checkpoints in one table."""
    examples: int = Field(24, ge=0)
    """Rows that the page itself holds, pictures and all, for when it is passed on alone; `seed` draws them. All others
    are in files beside it. 0 leaves the rows out."""
    seed: int = 0

    @property
    def steps_dir(self) -> Path:
        """The folder that holds the steps' folders."""
        return self.run_dir or self.out_dir.parent

    @property
    def curated(self) -> dict[str, CuratedConfig]:
        """The curated tasks of this run, by the name that the page gives them."""
        given = {"captions": self.captions, "reasoning": self.reasoning}
        return {name: task for name, task in given.items() if task} | dict(self.sets)

    def inputs(self) -> dict[str, Path]:
        """All that the page is made of, by config key. Raises `ValueError` naming the key of what does not exist."""
        paths = {f"funnel.{name}": self.steps_dir / name / MANIFEST for name in self.funnel}
        paths |= {f"training.{name}": self.steps_dir / name / run_facts.METRICS for name in self.training}
        paths |= {f"evaluations.{name}": folder for name, folder in self.evaluations.items()}
        for name, task in self.curated.items():
            paths |= {f"{name}.scored": task.scored}
            paths |= {f"{name}.selected": task.selected} if task.selected else {}
            paths |= {f"{name}.threshold_file": task.threshold_file} if task.threshold_file else {}
        paths |= {f"rows.{name}": folder for name, folder in self.rows.items()}
        paths |= {"benchmarks": self.benchmarks / RESULTS} if self.benchmarks else {}
        paths |= {"truth": self.truth} if self.truth else {}
        for key, path in (paths | ({"image_folder": self.image_folder} if self.image_folder else {})).items():
            if not path.exists():
                raise ValueError(
                    f"{key}: {path} does not exist; run the step that writes it, or take it out of the config"
                )
        return paths


def report(config: ReportConfig) -> Path:
    """Write report.html, what lies beside it and results.json, print the table of results; returns `out_dir`.

    Of a finished report of the same config and inputs only the times are written again; a folder of another one is
    refused.
    """
    write_run_json(config.out_dir, step="report", config=config, inputs=config.inputs())
    if not (config.out_dir / MANIFEST).is_file():
        try:
            _write(config)
        except BaseException:
            _remove(config.out_dir)
            raise
    times.write(config.out_dir, config.steps_dir, config.times)
    terminal.show(read_json(config.out_dir / RESULTS), config.out_dir / PAGE)
    return config.out_dir


def _write(config: ReportConfig) -> None:
    """Read every row once, gather the numbers, then the page that shows them, then the manifest."""
    shutil.rmtree(config.out_dir / browser.FOLDER, ignore_errors=True)  # of a report that was killed
    truth = Truth.read(config.truth) if config.truth else None
    shown, mix = Browser(config.out_dir, config.examples, config.seed), Mix()
    tasks = {name: _read_task(name, task, truth, shown, mix) for name, task in config.curated.items()}
    for name, folder in config.rows.items():
        for facts, text in browser_rows.read(name, folder):
            shown.add(facts, text)
            mix.add(facts, text)
    n_rows = shown.finish()
    sample = shown.sample()
    results = _results(config, tasks) | {"mix": mix.to_json(), "rows": n_rows}
    results["examples"] = [text for _, _, text in sample]
    write_json(config.out_dir / RESULTS, results)
    numbers = read_json(config.out_dir / RESULTS)  # as JSON has them: what cannot be known is null, not nan
    write_bytes(config.out_dir / PAGE, render(numbers, _browsed(config, tasks, n_rows, sample)).encode())
    files = [config.out_dir / PAGE, config.out_dir / RESULTS, *shown.files]
    digests = {str(path.relative_to(config.out_dir)): digest_file(path) for path in files}
    write_json(config.out_dir / MANIFEST, {"step": "report", "files": digests})


def _remove(out_dir: Path) -> None:
    """Remove what a report that failed has written, and the folder with it unless it holds something else."""
    shutil.rmtree(out_dir / browser.FOLDER, ignore_errors=True)
    for name in (PAGE, RESULTS, RUN):
        (out_dir / name).unlink(missing_ok=True)
    with suppress(OSError):
        out_dir.rmdir()


def _read_task(name: str, task: CuratedConfig, truth: Truth | None, shown: Browser, mix: Mix) -> Curated:
    def take(row: ScoredSet, marks: SetMarks, detail: str, by: str) -> None:
        facts, text = browser_rows.of_scored(name, row, marks, detail, by, truth)
        shown.add(facts, text)
        mix.add(facts, text)

    return curated.read_curated(task, truth, take)


def _browsed(config: ReportConfig, tasks: Mapping[str, Curated], n_rows: int, sample: Sample) -> dict[str, Any]:
    """What the page's script starts from: the sample with its pictures, and where all else lies."""
    folder = config.image_folder
    names = [facts.image for _, facts, _ in sample if facts.image is not None]
    inline = row_images.inline(folder, names) if folder else {}
    sets = {name: {"by": task.rule.by, "threshold": task.threshold} for name, task in tasks.items()}
    return {
        "rows": n_rows,
        "per_file": browser.ROWS_PER_FILE,
        "images": row_images.link_to(config.out_dir, folder) if folder else None,
        "pictures": inline,
        "slicing": _slicing(config, tasks).model_dump(),
        "sets": sets | {name: {"by": "score", "threshold": None} for name in config.rows},
        "sample": {
            "places": [place for place, _, _ in sample],
            "texts": [text for _, _, text in sample],
            "index": browser.sample_columns(sample),
        },
    }


def _slicing(config: ReportConfig, tasks: Mapping[str, Curated]) -> SlicingConfig:
    """As the config says, else as the checkpoint did that wrote the rows, else as the full-size model does."""
    folders = [*(task.config.scored for task in tasks.values()), *config.rows.values()]
    found = next((known for folder in folders if (known := lineage.slicing(folder))), {})
    return config.slicing or SlicingConfig.model_validate(found)


def _results(config: ReportConfig, tasks: Mapping[str, Curated]) -> dict[str, Any]:
    """All numbers of the page; what a run does not have is empty."""
    return {
        "title": config.title,
        "evaluation": evaluations.compare(evaluations.read_all(config.evaluations)) if config.evaluations else None,
        "benchmarks": benchmark_table.read(config.benchmarks / RESULTS) if config.benchmarks else None,
        "funnel": [run_facts.funnel_row(config.steps_dir, name) for name in config.funnel],
        "training": [run_facts.loss_curve(config.steps_dir, name) for name in config.training],
        "speed": {name: run_facts.speed(config.steps_dir, name) for name in config.training} if config.speed else {},
        "curation": {name: curated.summary(task, config.seed) for name, task in tasks.items()},
    }

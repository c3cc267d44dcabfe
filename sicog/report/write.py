"""The report of a run (`sicog report`): one self-contained HTML page, results.json with its numbers, a table to read.

It reads the output of the steps, and needs no torch. Parts that are missing in the config (ground truth, evaluations)
have no section. Files next to report.html are loaded on demand: the texts of all rows in rows/, and the times of steps
in times.js, the only file that differs between equal runs.
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
from sicog.stages.provenance import RUN, write_manifest, write_run_json
from sicog.stages.storage import MANIFEST, is_finished, read_json, write_bytes, write_json

PAGE, RESULTS = "report.html", "results.json"


class SlicingConfig(Config):
    """Slicing of images, as in sicog/model/slicing.py. The default is the full-size model's."""

    scale: int = Field(336, ge=1)
    """A slice has about scale x scale pixels."""
    patch_size: int = Field(14, ge=1)
    """Side of a patch in pixels."""
    max_slices: int = Field(7, ge=1)
    """Maximum number of slices of an image."""


class ReportConfig(Config):
    """Config of the report of a recipe, step `report`."""

    out_dir: Path
    run_dir: Path | None = None
    """A recipe's run folder; null: the folder above `out_dir`."""
    title: str = "A self-improvement run"
    """Title of the page."""
    funnel: tuple[str, ...] = ()
    """Names of steps (folders of `run_dir`) whose rows in and out are shown, in this order."""
    training: tuple[str, ...] = ()
    """Names of training steps to show, in order."""
    speed: bool = False
    """Also show the speed of training steps, which differs from run to run."""
    captions: CuratedConfig | None = None
    """The curated captions."""
    reasoning: CuratedConfig | None = None
    """The curated reasoning."""
    sets: Mapping[str, CuratedConfig] = {}
    """More curated tasks, by display name."""
    rows: Mapping[str, Path] = {}
    """Other folders of records to show (candidates, examples, preference pairs), by display name."""
    truth: Path | None = None
    """The mini world's truth/unlabelled.jsonl."""
    image_folder: Path | None = None
    """Folder of the images of the records; null: rows are shown without images."""
    slicing: SlicingConfig | None = None
    """Slicing to draw on an image; null: slicing of the checkpoint that wrote the rows."""
    evaluations: Mapping[str, Path] = {}
    """Evaluation steps to show by name, in order. `next` is compared with `base` and `control`."""
    times: tuple[str, ...] = ()
    """Steps with time and cost to show, in order; empty: all of the recipe."""
    benchmarks: Path | None = None
    """Output folder of `sicog results`, benchmarks of several checkpoints in one table."""
    examples: int = Field(24, ge=0)
    """Number of rows inside the page, with images, for sharing the page alone; `seed` selects them. All other rows are
    in files next to the page. 0: no rows."""
    seed: int = 0

    @property
    def steps_dir(self) -> Path:
        """Return the folder with the steps' folders."""
        return self.run_dir or self.out_dir.parent

    @property
    def curated_tasks(self) -> dict[str, CuratedConfig]:
        """Return the curated tasks of this run, by their name on the page."""
        given = {"captions": self.captions, "reasoning": self.reasoning}
        return {name: task for name, task in given.items() if task} | dict(self.sets)

    def inputs(self) -> dict[str, Path]:
        """Return all inputs of the page by config key. Raises `ValueError` with the key of a missing one."""
        paths = {f"funnel.{name}": self.steps_dir / name / MANIFEST for name in self.funnel}
        paths |= {f"training.{name}": self.steps_dir / name / run_facts.METRICS for name in self.training}
        paths |= {f"evaluations.{name}": folder for name, folder in self.evaluations.items()}
        for name, task in self.curated_tasks.items():
            paths |= {f"{name}.scored": task.scored}
            paths |= {f"{name}.selected": task.selected} if task.selected else {}
            paths |= {f"{name}.threshold_file": task.threshold_file} if task.threshold_file else {}
        paths |= {f"rows.{name}": folder for name, folder in self.rows.items()}
        paths |= {"benchmarks": self.benchmarks / RESULTS} if self.benchmarks else {}
        paths |= {"truth": self.truth} if self.truth else {}
        for key, path in (paths | ({"image_folder": self.image_folder} if self.image_folder else {})).items():
            if not path.exists():
                raise ValueError(
                    f"{key}: {path} does not exist. Run the step that writes it, or remove it from the config"
                )
        return paths


def report(config: ReportConfig) -> Path:
    """Write report.html with its files and results.json, print the table of results; returns `out_dir`.

    For a finished report with the same config and inputs only the times are written again. A folder of another report
    is refused.
    """
    write_run_json(config.out_dir, step="report", config=config, inputs=config.inputs())
    if not is_finished(config.out_dir):
        try:
            _write(config)
        except BaseException:
            _remove(config.out_dir)
            raise
    times.write(config.out_dir, config.steps_dir, config.times)
    terminal.show(read_json(config.out_dir / RESULTS), config.out_dir / PAGE)
    return config.out_dir


def _write(config: ReportConfig) -> None:
    """Read every row once, then write the numbers, the page and the manifest."""
    shutil.rmtree(config.out_dir / browser.FOLDER, ignore_errors=True)  # left over from a killed report
    truth = Truth.read(config.truth) if config.truth else None
    shown, mix = Browser(config.out_dir, config.examples, config.seed), Mix()
    tasks = {name: _read_task(name, task, truth, shown, mix) for name, task in config.curated_tasks.items()}
    for name, folder in config.rows.items():
        for facts, text in browser_rows.read(name, folder):
            shown.add(facts, text)
            mix.add(facts, text)
    n_rows = shown.finish()
    sample = shown.sample()
    results = _results(config, tasks) | {"mix": mix.to_json(), "rows": n_rows}
    results["examples"] = [text for _, _, text in sample]
    write_json(config.out_dir / RESULTS, results)
    numbers = read_json(config.out_dir / RESULTS)  # as in JSON: unknown values are null, not nan
    write_bytes(config.out_dir / PAGE, render(numbers, _browser_data(config, tasks, n_rows, sample)).encode())
    names = [PAGE, RESULTS, *(str(path.relative_to(config.out_dir)) for path in shown.files)]
    write_manifest(config.out_dir, "report", names)


def _remove(out_dir: Path) -> None:
    """Remove the files of a failed report, and the folder if it is empty then."""
    shutil.rmtree(out_dir / browser.FOLDER, ignore_errors=True)
    for name in (PAGE, RESULTS, RUN):
        (out_dir / name).unlink(missing_ok=True)
    with suppress(OSError):
        out_dir.rmdir()


def _read_task(name: str, task: CuratedConfig, truth: Truth | None, shown: Browser, mix: Mix) -> Curated:
    def take(row: ScoredSet, marks: SetMarks, detail: str, by: str) -> None:
        facts, text = browser_rows.scored_row(name, row, marks, detail, by, truth)
        shown.add(facts, text)
        mix.add(facts, text)

    return curated.read_curated(task, truth, take)


def _browser_data(config: ReportConfig, tasks: Mapping[str, Curated], n_rows: int, sample: Sample) -> dict[str, Any]:
    """Return the initial data of the page's script: the sample with images, and the places of other files."""
    folder = config.image_folder
    names = [facts.image for _, facts, _ in sample if facts.image is not None]
    inline = row_images.inline_images(folder, names) if folder else {}
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
    """Return the slicing of the config, else of the checkpoint that wrote the rows, else of the full-size model."""
    folders = [*(task.config.scored for task in tasks.values()), *config.rows.values()]
    found = next((known for folder in folders if (known := lineage.slicing(folder))), {})
    return config.slicing or SlicingConfig.model_validate(found)


def _results(config: ReportConfig, tasks: Mapping[str, Curated]) -> dict[str, Any]:
    """Return all numbers of the page; parts that a run does not have are empty."""
    return {
        "title": config.title,
        "evaluation": evaluations.compare(evaluations.read_all(config.evaluations)) if config.evaluations else None,
        "benchmarks": benchmark_table.read(config.benchmarks / RESULTS) if config.benchmarks else None,
        "funnel": [run_facts.funnel_row(config.steps_dir, name) for name in config.funnel],
        "training": [run_facts.loss_curve(config.steps_dir, name) for name in config.training],
        "speed": {name: run_facts.speed(config.steps_dir, name) for name in config.training} if config.speed else {},
        "curation": {name: curated.summary(task, config.seed) for name, task in tasks.items()},
    }

"""The report of a run (`sicog report`): one self-contained HTML page, results.json with its numbers, a table to read.

It reads what the steps wrote, and needs neither torch nor the steps. Parts that the config leaves out (a run without
ground truth, without evaluations) leave their section out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console
from rich.markup import escape

from sicog.config import Config
from sicog.provenance import digest_file, write_run_json
from sicog.report import curated, evaluations, examples, runs, terminal
from sicog.report.curated import Curated, CuratedConfig
from sicog.report.page import render
from sicog.report.truth import Truth
from sicog.storage import MANIFEST, read_json, write_bytes, write_json

PAGE, RESULTS = "report.html", "results.json"
STATES = ".steps"  # where `sicog run` writes how far each step is


class ReportConfig(Config):
    """Config of `sicog report`.

    run_dir: a recipe's run folder; the folder above `out_dir` when not given.
    funnel, training: names of steps, which are folders of `run_dir`, in the order to show.
    evaluations: evaluation steps by name, in the order to show. `next` is compared with `base` and `control`.
    truth: the mini world's truth/unlabelled.jsonl.
    image_folder: what the images of the records are relative to; without it examples are shown without images.
    speed: also how fast the training steps were, which is another each time.
    examples: how many images to show with all their candidates; `seed` draws them.
    """

    out_dir: Path
    run_dir: Path | None = None
    title: str = "A self-improvement run"
    funnel: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    speed: bool = False
    captions: CuratedConfig | None = None
    reasoning: CuratedConfig | None = None
    truth: Path | None = None
    image_folder: Path | None = None
    evaluations: Mapping[str, Path] = {}
    examples: int = Field(12, ge=0)
    seed: int = 0

    @property
    def steps_dir(self) -> Path:
        """The folder that holds the steps' folders."""
        return self.run_dir or self.out_dir.parent

    @property
    def curated(self) -> dict[str, CuratedConfig]:
        """The curated tasks of this run, by the name that the page gives them."""
        given = {"captions": self.captions, "reasoning": self.reasoning}
        return {name: task for name, task in given.items() if task}

    def inputs(self) -> dict[str, Path]:
        """All that the page is made of, by config key. Raises `ValueError` naming the key of what does not exist."""
        paths = {f"funnel.{name}": self.steps_dir / name / MANIFEST for name in self.funnel}
        paths |= {f"training.{name}": self.steps_dir / name / runs.METRICS for name in self.training}
        paths |= {f"evaluations.{name}": folder for name, folder in self.evaluations.items()}
        for name, task in self.curated.items():
            paths |= {f"{name}.scored": task.scored, f"{name}.selected": task.selected}
            paths |= {f"{name}.threshold_file": task.threshold_file} if task.threshold_file else {}
        paths |= {"truth": self.truth} if self.truth else {}
        for key, path in (paths | ({"image_folder": self.image_folder} if self.image_folder else {})).items():
            if not path.exists():
                raise ValueError(
                    f"{key}: {path} does not exist; run the step that writes it, or take it out of the config"
                )
        return paths


def report(config: ReportConfig) -> Path:
    """Write report.html and results.json, print the table of results; returns `out_dir`.

    A finished report of the same config and inputs is only printed again; a folder of another one is refused.
    """
    write_run_json(config.out_dir, step="report", config=config, inputs=config.inputs())
    if not (config.out_dir / MANIFEST).is_file():
        _write(config)
    terminal.show(read_json(config.out_dir / RESULTS), config.out_dir / PAGE)
    return config.out_dir


def report_run(run_dir: Path) -> Path:
    """The report of a recipe's run folder, of an unfinished one in `report-so-far`; or that of one training."""
    from sicog.runs.states import read_plan

    if (run_dir / runs.METRICS).is_file():
        return _report_training(run_dir.resolve())
    plan = read_plan(run_dir)
    planned = [step["config"] for step in plan if step["verb"] == "report"]
    if not planned:
        raise ValueError(f"{run_dir}: its recipe has no report step")
    config = ReportConfig.model_validate(planned[-1])
    stale = _stale(run_dir, [step["name"] for step in plan])
    why = "it is not finished"
    if (config.out_dir / MANIFEST).is_file() and not stale:
        try:
            return report(config)
        except ValueError as error:  # the recipe was changed, and the report not made again
            why = f"its report no longer fits: {error}"
    Console(stderr=True).print(f"{escape(f'{run_dir}: {why}; what there is')}:", highlight=False, soft_wrap=True)
    found = _so_far(config, [config.steps_dir / name for name in stale])
    shutil.rmtree(found.out_dir, ignore_errors=True)
    return report(found)


def _report_training(run_dir: Path) -> Path:
    """The loss curve and the speeds of one training, finished or not: made anew each time."""
    out_dir = run_dir / "report"
    shutil.rmtree(out_dir, ignore_errors=True)
    name = run_dir.name
    shown = {"title": f"Training {name}", "training": (name,), "speed": True, "examples": 0}
    return report(ReportConfig.model_validate({"out_dir": out_dir, "run_dir": run_dir.parent, **shown}))


def _stale(run_dir: Path, names: Sequence[str]) -> Sequence[str]:
    """The first step that was started and not finished, and all behind it: their folders are of an earlier run."""
    for place, name in enumerate(names):
        state = run_dir / STATES / f"{name}.json"
        if state.is_file() and read_json(state)["state"] != "done":
            return names[place:]
    return []


def _so_far(config: ReportConfig, stale: Sequence[Path]) -> ReportConfig:
    """The config without what has not been written yet, or not yet again."""

    def there(path: Path) -> bool:
        return path.exists() and not any(folder == path or folder in path.parents for folder in stale)

    def complete(task: CuratedConfig | None) -> CuratedConfig | None:
        paths = [task.scored / MANIFEST, task.selected / MANIFEST, task.threshold_file] if task else []
        return task if all(there(path) for path in paths if path) else None

    def finished(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if there(config.steps_dir / name / MANIFEST))

    return config.model_copy(
        update={
            "out_dir": config.steps_dir / "report-so-far",
            "run_dir": config.steps_dir,
            "funnel": finished(config.funnel),
            "training": finished(config.training),
            "captions": complete(config.captions),
            "reasoning": complete(config.reasoning),
            "truth": config.truth if config.truth and there(config.truth) else None,
            "image_folder": config.image_folder if config.image_folder and there(config.image_folder) else None,
            "evaluations": {n: path for n, path in config.evaluations.items() if there(path / MANIFEST)},
        }
    )


def _write(config: ReportConfig) -> None:
    """Gather the numbers, then the page that shows them, then the manifest."""
    truth = Truth.read(config.truth) if config.truth else None
    tasks = {name: curated.read_curated(task, truth) for name, task in config.curated.items()}
    results = _results(config, tasks)
    shown = examples.choose(list(tasks.values()), config.examples, config.seed)
    cards = examples.cards(shown, truth, config.image_folder)
    results["examples"] = [{key: value for key, value in card.items() if key != "picture"} for card in cards]
    write_json(config.out_dir / RESULTS, results)
    shown_numbers = read_json(config.out_dir / RESULTS)  # as JSON has them: what cannot be known is null, not nan
    write_bytes(config.out_dir / PAGE, render(shown_numbers, cards).encode())
    files = {name: digest_file(config.out_dir / name) for name in (PAGE, RESULTS)}
    write_json(config.out_dir / MANIFEST, {"step": "report", "files": files})


def _results(config: ReportConfig, tasks: Mapping[str, Curated]) -> dict[str, Any]:
    """All numbers of the page; what a run does not have is empty."""
    return {
        "title": config.title,
        "evaluation": evaluations.compare(evaluations.read_all(config.evaluations)) if config.evaluations else None,
        "funnel": [runs.funnel_row(config.steps_dir, name) for name in config.funnel],
        "training": [runs.loss_curve(config.steps_dir, name) for name in config.training],
        "speed": {name: runs.speed(config.steps_dir, name) for name in config.training} if config.speed else {},
        "curation": {name: curated.summary(task, config.seed) for name, task in tasks.items()},
    }

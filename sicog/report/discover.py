"""`sicog report DIR`: find out what a folder contains (a run or one step, finished or not), and report it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sicog.console import stderr_console
from sicog.report import benchmark_table, browser_rows, lineage, run_facts
from sicog.report.curated import CuratedConfig
from sicog.report.times import STATES
from sicog.report.write import RESULTS, ReportConfig, report
from sicog.stages.provenance import RUN
from sicog.stages.storage import MANIFEST, is_finished, read_json

REPORT, SO_FAR = "report", "report-so-far"
_DEPTH = 2  # depth of the search for step folders


def report_run(folder: Path, out_dir: Path | None = None) -> Path:
    """Write the report of a run folder (of an unfinished run in `report-so-far`), or of a step's folder.

    out_dir: output folder; by default it is inside the folder. Raises `ValueError` for a folder with nothing to show.
    """
    from sicog.runs.states import PLAN, read_plan

    if not (folder / PLAN).is_file():
        return _replace_report(_config_of_folder(folder.resolve(), (out_dir or folder / REPORT).resolve()))
    plan = read_plan(folder)
    planned = [step["config"] for step in plan if step["verb"] == "report"]
    if not planned:
        return _replace_report(_config_of_folder(folder.resolve(), (out_dir or folder / REPORT).resolve()))
    config = _with_current_paths(ReportConfig.model_validate(planned[-1]), folder)
    stale = _stale_steps(folder, [step["name"] for step in plan])
    why = "it is not finished"
    if is_finished(config.out_dir) and not stale and not out_dir:
        try:
            return report(config)
        except ValueError as error:  # the recipe has changed since the report was made
            why = f"its report no longer fits: {error}"
    if stale or not out_dir:
        stderr_console().print(f"{folder}: {why}; what there is:", soft_wrap=True)
    so_far = _without_missing(config, [config.steps_dir / name for name in stale])
    return _replace_report(so_far.model_copy(update={"out_dir": out_dir or config.steps_dir / SO_FAR}))


def _with_current_paths(config: ReportConfig, folder: Path) -> ReportConfig:
    """Return the config with paths that match the run's current folder; the run may have been moved."""
    from sicog.runs.states import current_path

    then = config.steps_dir
    if then.resolve() == folder.resolve():
        return config

    def relocate(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: relocate(inner) for key, inner in value.items()}
        return current_path(value, then, folder) if isinstance(value, Path) else value

    return ReportConfig.model_validate(relocate(config.model_dump()))


def _replace_report(config: ReportConfig) -> Path:
    """Write a report over an earlier one; refuse any other folder."""
    made = config.out_dir / RUN
    if made.is_file() and read_json(made).get("step") == "report":
        shutil.rmtree(config.out_dir)
    return report(config)


def _stale_steps(run_dir: Path, names: Sequence[str]) -> Sequence[str]:
    """Return the first unfinished step and all steps after it; their folders belong to an earlier run."""
    for place, name in enumerate(names):
        state = run_dir / STATES / f"{name}.json"
        if state.is_file() and read_json(state)["state"] != "done":
            return names[place:]
    return []


def _without_missing(config: ReportConfig, stale: Sequence[Path]) -> ReportConfig:
    """Return the config without outputs that are missing or stale."""

    def there(path: Path) -> bool:
        return path.exists() and not any(folder == path or folder in path.parents for folder in stale)

    def complete(task: CuratedConfig | None) -> CuratedConfig | None:
        if task is None or not there(task.scored / MANIFEST):
            return None
        rest = [task.selected / MANIFEST if task.selected else None, task.threshold_file]
        whole = all(there(path) for path in rest if path)
        return task if whole else CuratedConfig(scored=task.scored)

    def finished_steps(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if there(config.steps_dir / name / MANIFEST))

    return config.model_copy(
        update={
            "run_dir": config.steps_dir,
            "funnel": finished_steps(config.funnel),
            "training": finished_steps(config.training),
            "captions": complete(config.captions),
            "reasoning": complete(config.reasoning),
            "sets": {name: found for name, task in config.sets.items() if (found := complete(task))},
            "rows": {name: path for name, path in config.rows.items() if there(path / MANIFEST)},
            "truth": config.truth if config.truth and there(config.truth) else None,
            "image_folder": config.image_folder if config.image_folder and there(config.image_folder) else None,
            "benchmarks": config.benchmarks if config.benchmarks and there(config.benchmarks) else None,
            "evaluations": {n: path for n, path in config.evaluations.items() if there(path / MANIFEST)},
        }
    )


def _config_of_folder(folder: Path, out_dir: Path) -> ReportConfig:
    """Return the report config of a step's folder, or of all step folders of a run without a recipe."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Give the folder of a run or of one of its steps")
    steps, table = list(_step_folders(folder, _DEPTH)), _table(folder)
    if not steps and not table:
        raise ValueError(
            f"{folder} has nothing to show: {RUN} or {MANIFEST} of a step and {run_facts.METRICS} of a training are "
            f"missing. Give the folder of a run or of one of its steps"
        )
    alone = steps == [folder]
    root = folder.parent if alone else folder
    names = {step: str(step.relative_to(root)) for step in steps}
    training = [step for step in steps if (step / run_facts.METRICS).is_file()]
    data = [step for step in steps if step not in training and is_finished(step)]
    sets, shown = _records(data, names)
    counted = [names[step] for step in data if "rows_in" in read_json(step / MANIFEST)]
    known = [step for step in data if any(step.glob("shard-*.jsonl"))]
    what = "Training" if training else "Step"
    values: dict[str, Any] = {
        "out_dir": out_dir,
        "run_dir": root,
        "title": f"{what} {folder.name}" if alone else f"The steps in {folder.name}",
        "funnel": counted,
        "training": [names[step] for step in training],
        "speed": bool(training) and alone,
        "times": list(names.values()),
        "benchmarks": table,
        "evaluations": _evaluation(folder) if alone else {},
        "sets": sets,
        "rows": shown,
        "image_folder": next((found for step in known if (found := lineage.image_folder(step))), None),
    }
    if not any(values[part] for part in ("funnel", "training", "benchmarks", "evaluations", "sets", "rows")):
        why = "no rows, losses or figures that a page could show" if data else "nothing to show yet: it is not finished"
        raise ValueError(f"{folder} has {why}. For a table of benchmarks use `sicog results`")
    return ReportConfig.model_validate(values)


def _evaluation(step: Path) -> dict[str, Path]:
    """Return the folder by its model's name if it is an evaluation with ground truth."""
    figures = step / "metrics.json"
    found = read_json(figures) if figures.is_file() else None
    name = found.get("name") if isinstance(found, dict) and {"questions", "captions"} & found.keys() else None
    return {str(name or step.name): step} if name is not None else {}


def _table(folder: Path) -> Path | None:
    """Return this folder or its sub-folder that `sicog results` wrote."""
    return next((at for at in (folder, *sorted(folder.glob("*/"))) if benchmark_table.is_table(at / RESULTS)), None)


def _step_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the folder if a step wrote it, else step folders below it, except reports and hidden folders."""
    if any((folder / name).is_file() for name in (RUN, MANIFEST, run_facts.METRICS)):
        if not (folder / RUN).is_file() or read_json(folder / RUN).get("step") != "report":
            yield folder
    elif depth:
        for inner in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            yield from _step_folders(inner, depth - 1)


def _records(data: Sequence[Path], names: dict[Path, str]) -> tuple[dict[str, dict[str, Path]], dict[str, Path]]:
    """Return scored folders with their selections, and other folders with rows to show.

    Rows of a scored folder are not shown again as samples or examples.
    """
    kinds: dict[Path, str | None] = {}
    for step in data:
        try:
            kinds[step] = browser_rows.kind_of(step) if any(step.glob("shard-*.jsonl")) else None
        except browser_rows.UnknownRowsError:  # for example a teacher's rows next to the examples made from them
            if len(data) == 1:
                raise
    sets = {names[step]: {"scored": step} for step, kind in kinds.items() if kind == "scored"}
    covered: set[Path] = set()
    for step in data:
        if (step / RUN).is_file() and read_json(step / RUN).get("step") == "select":
            scored = lineage.scored_folder(step)
            if scored and is_finished(scored):
                scored = scored.resolve()
                sets.pop(names.get(scored, ""), None)
                sets[names[step]] = {"scored": scored, "selected": step, **_threshold_file(step)}
                covered.add(step)
    others = {names[s]: s for s, kind in kinds.items() if kind not in ("scored", None) and s not in covered}
    if sets:  # the samples are in the scored sets
        others = {name: step for name, step in others.items() if kinds[step] != "sampled"}
    return sets, others


def _threshold_file(selected: Path) -> dict[str, Path]:
    config = read_json(selected / RUN)
    given = config.get("config", {}).get("threshold_file")
    if not given:
        return {}
    beside = selected.parent / Path(*Path(given).parts[-2:])  # for a run that was moved or copied
    found = [place for place in (Path(given), selected.parent / given, beside) if place.is_file()]
    return {"threshold_file": found[0]} if found else {}

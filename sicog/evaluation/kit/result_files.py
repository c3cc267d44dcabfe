"""Read the kit's result files without the kit: the scores of a run, and each question's contribution.

A run is a work folder of `sicog eval` (scores.json), or a folder that the kit wrote itself (status.json). For the
latter, a suite maps data sets to benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sicog.config.packages import import_package
from sicog.evaluation.families import FAMILIES, Question
from sicog.evaluation.kit.work_folder import MODEL, SCORES
from sicog.evaluation.names import unique_tails
from sicog.evaluation.suite import Suite
from sicog.stages.storage import open_table, read_json

STATUS = "status.json"
_KINDS = (".xlsx", ".tsv", ".json", ".csv")  # formats of the kit's PRED_FORMAT, its default first
_JUDGE_IN_NAMES = {"chatgpt-0125": "openai", "gpt-4-0125": "gpt4"}  # as the kit's multiple choice writes them


@dataclass(frozen=True)
class Result:
    """One benchmark of one model. value: in `unit`, or None with a reason. made: judge, limit and kit of the score."""

    name: str
    family: str
    value: float | None
    reason: str | None
    questions: tuple[Question, ...]
    paper: Mapping[str, float] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One model and its benchmarks, by name. checkpoint: its path, empty for a folder of the kit's own."""

    name: str
    folder: Path
    results: Mapping[str, Result]
    checkpoint: Path = Path()


def find_runs(folders: list[Path], suite: Suite | None) -> list[Run]:
    """Return all runs in or below these folders. Raises `ValueError` for a folder without runs, or equal names."""
    found: dict[Path, Run] = {}
    for folder in folders:
        ours = sorted(folder.rglob(SCORES))
        theirs = [p for p in sorted(folder.rglob(STATUS)) if not any(p.is_relative_to(o.parent) for o in ours)]
        if not ours and not theirs:
            raise ValueError(
                f"{folder} has neither {SCORES} (sicog eval) nor {STATUS} (the kit). Give a folder of results"
            )
        found |= {p.parent: _read_sicog_run(p) for p in ours}
        if theirs and suite is None:
            raise ValueError(
                f"--suite is missing: {theirs[0]} was written by the kit alone. Set --suite to name its data sets"
            )
        found |= {p.parent: _read_kit_run(p, suite) for p in theirs if suite}
    runs = _with_unique_names(list(found.values()))
    for run in runs:
        if same := [r for r in runs if r.name == run.name and r is not run]:
            raise ValueError(
                f"{run.folder} and {same[0].folder} have the same name {run.name!r}. Give each its own name=..."
            )
    return runs


def _with_unique_names(runs: list[Run]) -> list[Run]:
    """Name runs by their checkpoint's folder, with more of its path when two names are equal."""
    names = [run.name for run in runs]
    places = [i for i, run in enumerate(runs) if names.count(run.name) > 1 and run.checkpoint.name == run.name]
    renamed = dict(zip(places, unique_tails([runs[i].checkpoint for i in places]), strict=True))
    return [replace(run, name=renamed.get(i, run.name)) for i, run in enumerate(runs)]


def _read_sicog_run(file: Path) -> Run:
    scores = read_json(file)
    results = {}
    for name, score in sorted(scores["benchmarks"].items(), key=lambda item: item[1]["place"]):
        judge = score["judge"] or scores["judge"]
        rows: tuple[Question, ...] = ()
        if score["value"] is not None:
            rows = read_questions(file.parent / MODEL, MODEL, score["data"], score["family"], judge)
        made = {"judge": judge, "limit": score["limit"], "kit": score["kit"]["version"] or score["kit"]["commit"]}
        made |= {key: scores["generation"][key] for key in ("style", "temperature")}
        results[name] = Result(name, score["family"], score["value"], score["reason"], rows, score["paper"], made)
    return Run(scores["name"], file.parent, results, Path(scores["checkpoint"]["path"]))


def _read_kit_run(file: Path, suite: Suite) -> Run:
    status = read_json(file)
    model = status.get("model_name") or file.parent.name
    results = {}
    for benchmark in suite.benchmarks:
        entry = status.get("datasets", {}).get(benchmark.data_name)
        if entry is None:
            continue
        family, judge = FAMILIES[benchmark.scored_as], entry.get("judge_model") or ""
        headline = family.headline(entry.get("metrics", {}))
        reason = entry.get("error_message") or entry.get("skip_reason")
        rows: tuple[Question, ...] = ()
        if headline and not reason:
            rows = read_questions(file.parent, model, benchmark.data_name, benchmark.scored_as, judge)
        value = headline[1] if headline and not reason else None
        made = {"judge": judge, "kit": status.get("commit")}
        paper, name = benchmark.paper, benchmark.name
        results[name] = Result(name, benchmark.scored_as, value, reason or None, rows, paper, made)
    return Run(model, file.parent, results)


def read_questions(folder: Path, model: str, data: str, family: str, judge: str) -> tuple[Question, ...]:
    """Return each question's contribution to the score, in the order of ids. Raises `ValueError` for a bad file."""
    suffix = FAMILIES[family].suffix.format(judge=_JUDGE_IN_NAMES.get(judge, judge))
    names = [folder / f"{model}_{data}{suffix}{kind}" for kind in _KINDS]
    path = next((name for name in names if name.is_file()), names[0])
    rows = read_table(path)
    try:
        questions = [FAMILIES[family].question(row) for row in rows]
    except (KeyError, ValueError, SyntaxError, TypeError) as error:
        raise ValueError(
            f"{path} is not a result file of the kit for {family!r} ({type(error).__name__}: {error}). Evaluate again"
        ) from None
    return tuple(sorted(questions, key=lambda q: q.id))


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of an xlsx, csv, tsv or json file, by column. Raises `ValueError` when it is missing."""
    if not path.is_file():
        raise ValueError(f"{path} is missing. Finish the run, or move the file back")
    if path.suffix == ".json":
        content: list[dict[str, Any]] = read_json(path)
        return content
    if path.suffix in (".csv", ".tsv"):
        with open_table(path, "\t" if path.suffix == ".tsv" else ",") as table:
            return list(table)
    workbook = import_package("openpyxl", str(path)).load_workbook(path, read_only=True)
    try:
        header, *rows = workbook.worksheets[0].iter_rows(values_only=True)
    finally:
        workbook.close()
    return [dict(zip(map(str, header), row, strict=False)) for row in rows]

"""Candidates of a finished mini run with their truth, to test scorers on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from sicog.mini.steps import truth_function
from sicog.mini.truth import SceneTruth
from sicog.records import Candidate, Example, Query, ScoredSet
from sicog.runs.states import current_path, read_plan
from sicog.stages.provenance import RUN
from sicog.stages.storage import count_rows, read_json, read_records
from sicog.tasks import CAPTIONING, REASONING


@dataclass(frozen=True)
class LabRow:
    """One query with its K eligible candidates.

    texts: the part that curation compares: a caption's description, the final answer of a chain.
    truths: in [0, 1], F1 of a caption's objects, 1 or 0 for an answer. A scorer must not use them; they are absent when
    its picks become training rows.
    image: rows of one image are not independent. places: of the candidates in the stored row.
    """

    query: Query
    candidates: tuple[Candidate, ...]
    texts: tuple[str, ...]
    truths: tuple[float, ...]
    image: str
    places: tuple[int, ...] = ()

    def of(self, chosen: Sequence[int]) -> LabRow:
        """Return the row with only these candidates."""
        return replace(
            self,
            candidates=tuple(self.candidates[i] for i in chosen),
            texts=tuple(self.texts[i] for i in chosen),
            truths=tuple(self.truths[i] for i in chosen) if self.truths else (),
            places=tuple(self.places[i] for i in chosen) if self.places else (),
        )


@dataclass(frozen=True)
class LabTask:
    """All rows of one task with a choice (K > 1), and the number of rows without one."""

    name: str
    scored: Path
    rows: tuple[LabRow, ...]
    without_choice: int


def read_tasks(run_dir: Path) -> list[LabTask]:
    """Return the tasks of a mini run. Raises `ValueError` when the run has no scored candidates or no truth yet."""
    report = _report_config(run_dir)
    truth = truth_function(_scenes(Path(report["truth"])))
    folders = {name: report[name]["scored"] for name in ("captions", "reasoning") if report[name]}
    return [_read_task(name, Path(folder), truth) for name, folder in folders.items()]


def truth_of_examples(run_dir: Path, examples: Iterable[Example]) -> dict[str, float]:
    """Return the mean truth by task of rows made from a mini run's candidates; other rows do not count.

    Raises like `read_tasks`.
    """
    scenes = _scenes(Path(_report_config(run_dir)["truth"]))
    truth, questions = truth_function(scenes), {q.id: q.question for scene in scenes.values() for q in scene.questions}
    found: dict[str, list[float]] = {}
    for row in examples:
        style = row.origin.style
        task = next((task for task in (CAPTIONING, REASONING) if style in task.styles), None)
        if task is not None:
            # `build` names a shared or repeated row source:id#2.
            original = row.id.removeprefix(f"{row.source}:").partition("#")[0].partition("~")[0]
            query = Query(id=original, task=task.name, question=questions.get(original, ""))
            found.setdefault(task.name, []).append(truth(query, task.compared(row.turns[-1].text, str(style))))
    return {task: sum(values) / len(values) for task, values in sorted(found.items())}


def moved_plan(run_dir: Path) -> list[dict[str, Any]]:
    """Return the steps of a run, with paths that match its current folder, which may have been moved or copied.

    Raises `ValueError` when there was no run in this folder.
    """
    plan = read_plan(run_dir)
    reports = [step["config"] for step in plan if step["verb"] == "report" and "out_dir" in step["config"]]
    if not reports:
        return plan
    then = Path(reports[-1].get("run_dir") or Path(reports[-1]["out_dir"]).parent)

    def relocate(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: relocate(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return list(map(relocate, value))
        inside = isinstance(value, str) and Path(value).is_relative_to(then)  # then it must be a path
        return str(current_path(Path(value), then, run_dir)) if inside else value

    return [{**step, "config": relocate(step["config"])} for step in plan]


def _report_config(run_dir: Path) -> dict[str, Any]:
    reports: list[dict[str, Any]] = [step["config"] for step in moved_plan(run_dir) if step["verb"] == "report"]
    if not reports or not reports[-1]["truth"]:
        raise ValueError(
            f"{run_dir} is not a run of the mini world: its recipe has no report with a truth. Run make mini"
        )
    return reports[-1]


def _scenes(path: Path) -> dict[str, SceneTruth]:
    if not path.is_file():
        raise ValueError(f"{path} is missing, because the run is not finished. Finish it with make mini")
    truths = [SceneTruth.from_json(orjson.loads(line)) for line in path.read_bytes().splitlines()]
    return {truth.scene.id: truth for truth in truths}


def _read_task(name: str, folder: Path, truth: Callable[[Query, str], float]) -> LabTask:
    rows = read_rows(folder, truth)
    return LabTask(name, folder, tuple(rows), count_rows(folder) - len(rows))


def read_rows(folder: Path, truth: Callable[[Query, str], float] | None) -> list[LabRow]:
    """Return the scored rows with a choice, in order; without truths when `truth` is None.

    Raises `ValueError` when there is no such row.
    """
    rows = []
    for row in read_records(folder, ScoredSet):
        usable = [(place, c) for place, c in enumerate(row.candidates) if c.compared is not None]
        if len(usable) < 2:
            continue
        texts = tuple(c.compared or "" for _, c in usable)
        rows.append(
            LabRow(
                row.query,
                tuple(c.candidate for _, c in usable),
                texts,
                tuple(truth(row.query, text) for text in texts) if truth else (),
                row.query.images[0] if row.query.images else row.id,
                tuple(place for place, _ in usable),
            )
        )
    if not rows:
        raise ValueError(f"{folder} has no row with two candidates to choose from. Sample more candidates")
    return rows


def encoder_of(task: LabTask) -> dict[str, object] | None:
    """Return the encoder's config of the run's own scores; None when no encoder was used."""
    used: Sequence[str] | dict[str, object] = read_json(task.scored / RUN).get("config", {})
    found = used.get("encoder") if isinstance(used, dict) else None
    return found if isinstance(found, dict) else None

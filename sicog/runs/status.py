"""`sicog status RUN`: print the status of a run. It only reads, also while the run is active."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import orjson
from rich.table import Table

from sicog.console import stdout_console, styled_text
from sicog.runs.recipe import Step
from sicog.runs.states import Standing, State, read_job, read_steps, step_standing
from sicog.stages.journal import WORK
from sicog.stages.runner import STAGE
from sicog.stages.storage import MANIFEST, is_finished, read_json

_SPEED = "speed.jsonl"  # written by `sicog.training.callbacks`
_ROWS = re.compile(rb'\{"rows":(\d+),')
_STYLES: dict[Standing, str] = {"done": "green", "running": "bold", "failed": "red", "stopped": "yellow"}
_UNDER_WAY = ("running", "queued")


@dataclass(frozen=True)
class Progress:
    """Progress of a step, in rows of data or updates of a training. total, rate (per second), left (seconds): None if
    unknown."""

    unit: str
    done: int
    total: int | None = None
    rate: float | None = None
    left: float | None = None

    def __str__(self) -> str:
        of = f"/{self.total:,}" if self.total is not None else ""
        rate = f", {self.rate:.3g}/s" if self.rate else ""
        return f"{self.done:,}{of} {self.unit}{rate}"


@dataclass(frozen=True)
class StepStatus:
    """One line of the table."""

    step: Step
    standing: Standing
    progress: Progress | None
    seconds: float
    error: str | None
    job: str | None


def status_of(run_dir: Path) -> list[StepStatus]:
    """Return the status of each step of the latest run in this folder. Raises `ValueError` without a run."""
    return [_status(step) for step in read_steps(run_dir)]


def show_status(run_dir: Path) -> bool:
    """Print the table; returns true if the run is finished or active, and no step has failed."""
    console, found = stdout_console(), status_of(run_dir)
    table = Table("step", "verb", "", "progress", "spent", "left", title=f"{run_dir}", title_justify="left")
    for line in found:
        style = _STYLES.get(line.standing, "dim")
        of_job = f", job {line.job}" if line.job and line.standing in _UNDER_WAY else ""
        left = line.progress.left if line.progress and line.standing == "running" else None
        table.add_row(
            line.step.name,
            line.step.verb.name,
            styled_text((line.standing, style), of_job),
            str(line.progress or ""),
            _duration(line.seconds) if line.seconds else "",
            _duration(left) if left is not None else "",
        )
    console.print(table)
    for line in found:
        if line.standing == "failed":
            console.print(f"{line.step.name}: {line.error or 'see its output'}", soft_wrap=True)
    console.print(_summary(found), soft_wrap=True)
    kinds = {line.standing for line in found}
    return kinds == {"done"} or ("failed" not in kinds and bool(kinds & {*_UNDER_WAY}))


def progress_of(step: Step, seconds: float) -> Progress | None:
    """Return the progress of a step from its output. seconds: time spent on it so far."""
    if step.verb.trains:
        return _training_progress(step.folder)
    if is_finished(step.folder):
        manifest = read_json(step.folder / MANIFEST)
        return Progress("rows", manifest["rows_in"]) if "rows_in" in manifest else None
    works = [work for work in (step.folder / WORK, *sorted(step.folder.glob(f"*/{WORK}"))) if work.is_dir()]
    if not works:
        return None
    done = sum(_rows_in_journal(journal) for work in works for journal in work.glob("journal-*.jsonl"))
    known = [read_json(work / STAGE)["rows"] for work in works if (work / STAGE).is_file()]
    total = sum(known) if len(known) == len(works) else None
    rate = done / seconds if seconds > 0 and done else None
    return Progress("rows", done, total, rate, (total - done) / rate if rate and total is not None else None)


def _status(step: Step) -> StepStatus:
    how, state = step_standing(step)
    seconds = _seconds_spent(how, state)
    progress = progress_of(step, seconds) if how not in ("waiting", "changed") and step.folder.is_dir() else None
    job = read_job(step.run_dir, step.name)
    return StepStatus(step, how, progress, seconds, state.error if state else None, job.job if job else None)


def _seconds_spent(how: Standing, state: State | None) -> float:
    if state is None:
        return 0.0
    return state.seconds + (time.time() - state.since if how == "running" else 0.0)


def _training_progress(folder: Path) -> Progress | None:
    """Return the progress of a training: from its last line of metrics, or from its manifest when finished."""
    if is_finished(folder):
        n = int(read_json(folder / MANIFEST)["steps"])
        return Progress("updates", n, n)
    last = None
    for line in _complete_lines(folder / _SPEED):
        last = line
    if last is None:
        return None
    speed = orjson.loads(last)
    total = speed.get("steps")
    return Progress(
        "updates", speed["step"], total, 1 / speed["seconds"] if speed["seconds"] else None, speed["seconds_left"]
    )


def _rows_in_journal(journal: Path) -> int:
    """Return the rows of a journal's complete lines; each line starts with its number of rows and is not parsed."""
    return sum(int(found[1]) for line in _complete_lines(journal) if (found := _ROWS.match(line)))


def _complete_lines(path: Path) -> Iterator[bytes]:
    """Yield the complete lines of a growing file; none if it does not exist."""
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except FileNotFoundError:
        return


def _summary(found: list[StepStatus]) -> str:
    done = sum(line.standing == "done" for line in found)
    spent = _duration(sum(line.seconds for line in found))
    kinds = {line.standing for line in found}
    if kinds == {"done"}:
        return f"finished: {done} steps in {spent}"
    advice = "" if kinds & {*_UNDER_WAY} else "; no process is running. Run its recipe again to resume"
    return f"{done} of {len(found)} steps done, {spent} spent{advice}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))

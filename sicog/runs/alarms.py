"""`alarms`: detect bad training data of a round before the next model is trained.

Starvation: too few rows are kept. Collapse: nearly all rows are kept, rows repeat, answers are much shorter or longer
than in the previous round, or one answer dominates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from sicog.answers import final_answer
from sicog.chains import ChainError
from sicog.config import Config
from sicog.console import say
from sicog.records import Example
from sicog.stages.provenance import write_manifest, write_run_json
from sicog.stages.storage import MANIFEST, read_json, read_records, write_json
from sicog.tasks import TASKS

ALARMS = "alarms.json"


class WatchedRows(Config):
    """The kept rows of one task, and the limits that raise an alarm."""

    selected: tuple[Path, ...] = Field(min_length=1)
    """Output folders of `select`, of all rounds so far. The last one is checked, and compared with the one before."""
    share_kept: tuple[float, float] = (0.1, 0.95)
    """Minimum and maximum share of the input rows of `select` that are kept."""
    min_rows: int = Field(default=1, ge=0)
    """Minimum number of kept rows."""
    max_duplicates: float = Field(default=0.5, ge=0, le=1)
    """Maximum share of rows with the prompt and the answer of an earlier row."""
    length_ratio: tuple[float, float] = (0.5, 2.0)
    """Minimum and maximum ratio of mean words per answer to the previous round."""
    max_answer_share: float = Field(default=0.5, ge=0, le=1)
    """Maximum share of the most frequent final answer, for short answers."""


class AlarmsConfig(Config):
    """The kept rows to check, and what to do on an alarm."""

    out_dir: Path
    watched: dict[str, WatchedRows] = Field(min_length=1)
    """The kept rows of each task."""
    stop: bool = True
    """Whether an alarm stops the run, or is only printed and stored."""


@dataclass(frozen=True)
class Figures:
    """The checked figures. answer_share: None without short or readable answers."""

    rows: int
    share_kept: float
    duplicates: float
    words: float
    answers: int
    answer_share: float | None


def alarms(config: AlarmsConfig) -> Path:
    """Write alarms.json; returns the output folder. Raises `ValueError` for alarms unless `stop` is off."""
    folders = {f"{name}.{n}": path for name, w in config.watched.items() for n, path in enumerate(w.selected)}
    write_run_json(config.out_dir, step="alarms", config=config, inputs=folders)
    found, raised = {}, []
    for name, watched in config.watched.items():
        figures = [folder_figures(folder) for folder in watched.selected[-2:]]
        found[name] = asdict(figures[-1])
        raised += [
            f"{name}: {alarm}" for alarm in alarm_messages(watched, figures[-1], figures[0] if figures[1:] else None)
        ]
    write_json(config.out_dir / ALARMS, {"figures": found, "alarms": raised})
    for alarm in raised:
        say(f"ALARM {alarm}", style="bold red")
    if raised and config.stop:
        raise ValueError(
            f"the round is stopped by {len(raised)} alarm(s): {'; '.join(raised)}. Look at the rows in "
            f"{', '.join(str(w.selected[-1]) for w in config.watched.values())}. Then change the steps that made them "
            f"or the limits of this step, or set stop: false"
        )
    write_manifest(config.out_dir, "alarms", [ALARMS])
    return config.out_dir


def folder_figures(folder: Path) -> Figures:
    """Return the figures of a folder of kept rows."""
    rows = words = repeated = 0
    seen: set[int] = set()
    answers: Counter[str] = Counter()
    for row in read_records(folder, Example):
        text = row.turns[-1].text
        key = hash((row.turns[-2].text, " ".join(text.lower().split())))
        rows, words, repeated = rows + 1, words + len(text.split()), repeated + (key in seen)
        seen.add(key)
        answers.update(_short_answer(row))
    rows_in = read_json(folder / MANIFEST)["rows_in"]
    share = answers.most_common(1)[0][1] / answers.total() if answers else None
    return Figures(
        rows=rows,
        share_kept=rows / rows_in if rows_in else 0.0,
        duplicates=repeated / rows if rows else 0.0,
        words=words / rows if rows else 0.0,
        answers=len(answers),
        answer_share=share,
    )


def alarm_messages(limits: WatchedRows, now: Figures, before: Figures | None) -> Iterator[str]:
    """Yield a sentence for every exceeded limit."""
    low, high = limits.share_kept
    if now.rows < limits.min_rows:
        yield f"{now.rows} rows are kept, fewer than {limits.min_rows} (min_rows)"
    if now.share_kept < low:
        yield f"{now.share_kept:.0%} of the rows are kept, less than {low:.0%} (share_kept): starvation"
    if now.share_kept > high:
        yield f"{now.share_kept:.0%} of the rows are kept, more than {high:.0%} (share_kept): all samples agree"
    if now.duplicates > limits.max_duplicates:
        yield f"{now.duplicates:.0%} of the rows repeat another, more than {limits.max_duplicates:.0%} (max_duplicates)"
    if before and before.words and now.rows:
        ratio, (shortest, longest) = now.words / before.words, limits.length_ratio
        if not shortest <= ratio <= longest:
            yield (
                f"answers have {now.words:.0f} words, {ratio:.2f} times those of the round before, outside "
                f"{shortest:g} to {longest:g} (length_ratio)"
            )
    if now.answer_share is not None and now.answer_share > limits.max_answer_share:
        yield (
            f"{now.answer_share:.0%} of the answers are the same, more than {limits.max_answer_share:.0%} "
            f"(max_answer_share)"
        )


def _short_answer(row: Example) -> list[str]:
    """Return the final answer of a reasoning row, as in votes; empty for a caption."""
    task = TASKS.get(row.source)
    if task is None or not task.votes:
        return []
    try:
        return [final_answer(task.compared(row.turns[-1].text, row.extra["style"]))]
    except (ChainError, KeyError):
        return []

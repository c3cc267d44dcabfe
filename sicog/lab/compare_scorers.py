"""`sicog lab score`: compare scorers on the candidates of a finished mini run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from sicog.console import stdout_console
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.curation.vectors.prepare import embedder_of
from sicog.curation.vectors.vector_cache import Embedding
from sicog.lab.gap_proxy import GapTask, gap_of_picks, read_gap_tasks
from sicog.lab.scorer_quality import ScorerQuality, scorer_quality
from sicog.lab.scorers import SCORERS, Embed, Scorer, load_scorer
from sicog.lab.true_candidates import LabRow, LabTask, encoder_of, read_rows, read_tasks
from sicog.progress import with_progress
from sicog.stages.storage import write_bytes, write_json
from sicog.statistics.intervals import Interval

_FIGURES = ("truth", "over_random", "truest", "auroc")
TASK_NAMES = {"captions": "captioning", "reasoning": "reasoning"}  # sizes of a report and of rows


def lab_score(run_dir: Path, files: Sequence[Path], out: Path | None = None) -> dict[str, dict[str, ScorerQuality]]:
    """Run the shipped scorers and those of `files` on a run; prints one table per task.

    Writes `out` as JSON, and as Markdown next to it. Returns the quality of each scorer by task and scorer. The scorer
    of a file has the file's name.
    """
    scorers = dict(SCORERS)
    for path in files:
        if path.stem in scorers:
            raise ValueError(f"{path}: a scorer {path.stem!r} already exists. Rename the file")
        scorers[path.stem] = load_scorer(path)
    tasks = read_tasks(run_dir)
    measured = {task.name: task for task in read_gap_tasks(run_dir)}
    found: dict[str, dict[str, ScorerQuality]] = {}
    for task in tasks:
        embed = cached_encoder(task)
        on_dev = measured.get(TASK_NAMES[task.name])
        found[task.name] = {
            name: replace(
                scorer_quality(task.rows, scores_of(name, scorer, task.rows, embed)),
                gap=_gap(name, scorer, on_dev, embed) if on_dev else None,
            )
            for name, scorer in with_progress(
                scorers.items(), f"{task.name}, {len(task.rows)} rows", len(scorers), unit="scorer"
            )
        }
        _show(task, found[task.name])
    if out is not None:
        plain = {task: {name: _plain(w) for name, w in by.items()} for task, by in found.items()}
        write_json(out, plain)
        write_bytes(out.with_suffix(".md"), markdown(plain).encode())
    return found


def _gap(name: str, scorer: Scorer, task: GapTask, embed: Embed) -> Interval:
    """Return the truth of the scorer's picks on the development split minus the truth of the student's greedy texts."""
    rows = read_rows(task.scored, None)
    picks = {}
    for row, scores in zip(rows, scores_of(name, scorer, rows, embed), strict=True):
        picks[row.query.id] = row.texts[scores.index(max(scores))]
    return gap_of_picks(task, picks)


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures of `lab_score` as one Markdown table, the best scorer of each task first."""
    head = ["task", "scorer", "truth of picks", "over random", "truest picked", "AUROC", "AURC"]
    has_gap = any(w.get("gap") for by_scorer in found.values() for w in by_scorer.values())
    lines = [head + ["gap"] * has_gap, ["---", "---", *["---:"] * (5 + has_gap)]]
    for task, by_scorer in found.items():
        for name, w in sorted(by_scorer.items(), key=lambda item: -item[1]["truth"]["value"]):
            figures = [_format_interval(Interval(**w[key]), "+" * (key == "over_random")) for key in _FIGURES]
            gap = [_format_interval(Interval(**w["gap"]), "+") if w.get("gap") else ""] * has_gap
            lines.append([task, f"`{name}`", *figures, f"{w['aurc']:.3f}", *gap])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def cached_encoder(task: LabTask) -> Embed:
    """Return the run's encoder with a cache. The first call embeds all distinct texts of the task."""
    given = encoder_of(task)
    vectors: dict[str, NDArray[np.float32]] = {}

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        if not vectors:
            known = list(dict.fromkeys(text for row in task.rows for text in row.texts))
            embedder = embedder_of(EncoderConfig.model_validate(given or {}))
            vectors.update(zip(known, embedder.embed(known), strict=True))
            embed_more.append(embedder)
        if missing := [text for text in dict.fromkeys(texts) if text not in vectors]:
            vectors.update(zip(missing, embed_more[0].embed(missing), strict=True))
        return np.stack([vectors[text] for text in texts])

    embed_more: list[Embedding] = []
    return embed


def scores_of(name: str, scorer: Scorer, rows: Sequence[LabRow], embed: Embed) -> list[list[float]]:
    """Return the scorer's numbers for all rows. Raises `ValueError` with scorer and row unless they are finite."""
    found = []
    for row in rows:
        scores = [float(value) for value in scorer(row, embed)]
        if len(scores) != len(row.texts) or not all(math.isfinite(value) for value in scores):
            raise ValueError(
                f"scorer {name}, row {row.query.id}: it returned {scores}. Return {len(row.texts)} finite numbers, one "
                f"per candidate"
            )
        found.append(scores)
    return found


def _show(task: LabTask, by_scorer: Mapping[str, ScorerQuality]) -> None:
    console = stdout_console()
    title = f"{task.name}: {len(task.rows)} rows with a choice, {task.without_choice} without"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("scorer")
    for column in ("truth of picks", "over random", "truest picked", "AUROC", "AURC", "gap on dev"):
        table.add_column(column, justify="right")
    for name, w in sorted(by_scorer.items(), key=lambda item: -item[1].truth.value):
        over, gap = _format_interval(w.over_random, "+"), _format_interval(w.gap, "+") if w.gap else ""
        table.add_row(
            name,
            _format_interval(w.truth),
            over,
            _format_interval(w.truest),
            _format_interval(w.auroc),
            f"{w.aurc:.3f}",
            gap,
        )
    console.print(table)


def _format_interval(interval: Interval, sign: str = "") -> str:
    """Format the estimate and half the width of its 95 % interval."""
    return f"{interval.value:{sign}.3f} ±{(interval.high - interval.low) / 2:.3f}"


def _plain(w: ScorerQuality) -> dict[str, Any]:
    return {k: v._asdict() if isinstance(v, Interval) else v for k, v in asdict(w).items()}

"""`sicog lab gap`: test the gap proxy, which needs no truth, against the true gap.

Labels are made again from 4, 6, ... candidates of the development split, and from two halves of these. For each number
of candidates and each kind of row, two values are compared. The gap is truth of the label minus truth of the greedy
text. The proxy is agreement of the halves' labels minus agreement of label and greedy text. Their rank correlation
measures the quality of the proxy.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich import box
from rich.table import Table

from sicog.answers import final_answer
from sicog.config import validate
from sicog.console import stdout_console
from sicog.curation.claims.extract import ReadClaims
from sicog.curation.claims.readers import GrammarReader
from sicog.curation.claims.settle import SettleConfig, SettleRows
from sicog.lab.scorer_quality import ranks
from sicog.lab.true_candidates import moved_plan
from sicog.mini.steps import truth_function
from sicog.mini.truth import read_truth
from sicog.records import CandidateSet, Example, Query, Record, ScoredSet
from sicog.runs.gap import GapConfig, agreement, compared_text
from sicog.stages.candidates import RunsSource, find_runs
from sicog.stages.shard import Outcome
from sicog.stages.storage import read_records, write_bytes, write_json
from sicog.statistics.intervals import Interval, mean_interval, paired_difference_interval, with_limits

FEWEST_ROWS = 20  # minimum rows of a kind with its own line
RecordT = TypeVar("RecordT", bound=Record)
Truth = Callable[[Query, str], float]
Label = Callable[[Sequence[CandidateSet]], list[str | None]]


@dataclass(frozen=True)
class GapTask:
    """Data of a measured gap: candidate sets of the development split, the function that makes labels, the student's
    greedy text by id (None: a broken chain), the truth function, and the kind of a row."""

    name: str
    scored: Path
    sets: tuple[CandidateSet, ...]
    label: Label
    greedy: Mapping[str, str | None]
    truth: Truth
    kind: Callable[[Query], str]
    config: GapConfig

    def greedy_truth(self, query: Query) -> float:
        """Return the truth of the student's own text."""
        text = self.greedy[query.id]
        return 0.0 if text is None else self.truth(query, text)


@dataclass(frozen=True)
class Cell:
    """One kind of row at one number of candidates: the measured gap and its proxy."""

    task: str
    kind: str
    k: int
    rows: int
    gap: Interval
    proxy: Interval


def read_gap_tasks(run_dir: Path) -> list[GapTask]:
    """Return the tasks of a mini run with a measured gap; empty if the run has no such finished steps."""
    plan = moved_plan(run_dir)
    by_folder = {str(step["config"].get("out_dir")): step for step in plan}
    found = []
    for step in plan:
        config = step["config"]
        if step["verb"] == "mini-gap" and (Path(config["labels"]) / "manifest.json").is_file():
            labels = by_folder[config["labels"]]
            scored = by_folder[labels["config"]["input"]]
            found.append(_task(config, labels, scored))
    return found


def _task(config: Mapping[str, Any], labels: Mapping[str, Any], scored: Mapping[str, Any]) -> GapTask:
    truths = read_truth(Path(config["data"]), "dev")
    types = {question.id: question.type for scene in truths.values() for question in scene.questions}
    greedy = {row.id: _compared_text(row, 0) for row in read_records(Path(config["greedy"]), CandidateSet)}
    pooled = RunsSource(find_runs(scored["config"]["input"]))
    sets = tuple(row for row in pooled.read(0, len(pooled)) if isinstance(row, CandidateSet) and row.id in greedy)
    label = _merged_label(labels["config"], scored["config"]) if labels["verb"] == "settle" else _voted_labels
    plain = {key: value for key, value in config.items() if key in GapConfig.model_fields}
    name = sets[0].query.task if sets else "no rows"

    def kind(query: Query) -> str:
        return types.get(query.id, "caption")

    settings = validate(GapConfig, plain | {"halves": [], "require": None}, "gap")
    return GapTask(name, Path(scored["config"]["out_dir"]), sets, label, greedy, truth_function(truths), kind, settings)


def _compared_text(row: CandidateSet, place: int) -> str | None:
    candidate = row.candidates[place]
    return compared_text(row.query, candidate.text, candidate.style)


def _voted_labels(sets: Sequence[CandidateSet]) -> list[str | None]:
    """Return the most frequent final answer of each set; of equal ones the first."""
    found: list[str | None] = []
    for row in sets:
        texts = [text for k in range(len(row.candidates)) if (text := _compared_text(row, k)) is not None]
        counts = Counter(final_answer(text, row.query.question) for text in texts)
        found.append(counts.most_common(1)[0][0] if counts else None)
    return found


def _merged_label(settle: Mapping[str, Any], claims: Mapping[str, Any]) -> Label:
    """Return the run's own label function: extract claims, and merge claims with enough support into one text."""
    reading = ReadClaims(GrammarReader(str(claims["grammar"])), claims["measure"])
    config = validate(SettleConfig, {**settle, "min_candidates": 2}, "settle")
    if config.support is None:
        raise ValueError("lab gap needs a fixed support, not a quantile. Use a run with `support`")
    rows = SettleRows(config, config.support)

    def label(sets: Sequence[CandidateSet]) -> list[str | None]:
        scored = [_first_of_type(outcome, ScoredSet) for outcome in reading(sets)]
        kept = [_first_of_type(rows([one])[0], Example) if one else None for one in scored]
        return [example.turns[-1].text if example else None for example in kept]

    return label


def _first_of_type(outcome: Outcome, kind: type[RecordT]) -> RecordT | None:
    """Return the record of this kind in an outcome; None for a dropped row."""
    records = outcome if isinstance(outcome, Sequence) else ()
    return next((record for record in records if isinstance(record, kind)), None)


def gap_cells(task: GapTask) -> list[Cell]:
    """Return a cell for each number of candidates, for all rows and for each kind with enough rows."""
    most = max((sum(c.window is None for c in row.candidates) for row in task.sets), default=0)
    agree = agreement(task.config)
    found = []
    for k in range(4, most + 1, 2):
        whole, one, other = ([_first_candidates(row, k, part) for row in task.sets] for part in (None, 0, 1))
        labels = zip(task.sets, task.label(whole), task.label(one), task.label(other), strict=True)
        known = [(row.query, a, b, c) for row, a, b, c in labels if a is not None and b is not None and c is not None]
        if not known:
            continue
        queries = [query for query, *_ in known]
        gaps = [task.truth(query, label) - task.greedy_truth(query) for query, label, _, _ in known]
        reliable = agree([(query, first, second) for query, _, first, second in known])
        greedy = agree([(query, label, task.greedy[query.id] or "") for query, label, _, _ in known])
        proxies = [a - b for a, b in zip(reliable, greedy, strict=True)]
        kinds: dict[str, list[int]] = defaultdict(list)
        for place, query in enumerate(queries):
            kinds[task.kind(query)].append(place)
        groups = {"all": list(range(len(known)))} | (kinds if len(kinds) > 1 else {})
        for kind, places in groups.items():
            if len(places) >= FEWEST_ROWS:
                images = [queries[i].images[0] if queries[i].images else queries[i].id for i in places]
                intervals = [mean_interval([values[i] for i in places], images) for values in (gaps, proxies)]
                found.append(Cell(task.name, kind, k, len(places), *intervals))
    return found


def _first_candidates(row: CandidateSet, k: int, half: int | None) -> CandidateSet:
    """Return the first k candidates of the whole image, or one half of them; all windows stay."""
    whole = [c for c in row.candidates if c.window is None][:k]
    chosen = whole if half is None else whole[half::2]
    return row.model_copy(update={"candidates": (*chosen, *(c for c in row.candidates if c.window is not None))})


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return Spearman's correlation, ties with their mean rank; nan for fewer than three points or equal values."""
    if len(xs) < 3:
        return math.nan
    one, other = (ranks(np.asarray(values, dtype=np.float64)) for values in (xs, ys))
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else math.nan


def gap_of_picks(task: GapTask, picks: Mapping[str, str]) -> Interval:
    """Return the gap of labels given by id, on the rows that have a label."""
    rows = [row.query for row in task.sets if row.id in picks]
    images = [query.images[0] if query.images else query.id for query in rows]
    labels = [task.truth(query, picks[query.id]) for query in rows]
    return paired_difference_interval([task.greedy_truth(query) for query in rows], labels, images)


def lab_gap(run_dir: Path, out: Path | None = None) -> list[Cell]:
    """Print the table of a run, and write it to `out` as JSON and Markdown. Raises `ValueError` without a gap."""
    tasks = read_gap_tasks(run_dir)
    if not tasks:
        raise ValueError(f"{run_dir} has no measured gap yet (steps of mini-gap). Finish it with make mini")
    found = [cell for task in tasks for cell in gap_cells(task)]
    whole = rank_correlation([c.gap.value for c in found], [c.proxy.value for c in found])
    text = markdown(found, whole)
    table = Table("task", "kind", "K", "rows", "gap", "proxy", box=box.SIMPLE_HEAD)
    for c in found:
        table.add_row(c.task, c.kind, str(c.k), str(c.rows), _format_interval(c.gap), _format_interval(c.proxy))
    console = stdout_console()
    console.print(table)
    console.print(f"rank correlation of gap and proxy over these {len(found)}: {whole:.2f}")
    if out is not None:
        lines = [{**c.__dict__, "gap": c.gap._asdict(), "proxy": c.proxy._asdict()} for c in found]
        write_json(out, {"rank_correlation": None if math.isnan(whole) else round(whole, 4), "cells": lines})
        write_bytes(out.with_suffix(".md"), text.encode())
    return found


def markdown(found: Sequence[Cell], whole: float) -> str:
    """Return the table with the rank correlation below it."""
    lines = [["task", "kind", "K", "rows", "gap", "proxy"], ["---", "---", "---:", "---:", "---:", "---:"]]
    lines += [
        [c.task, c.kind, str(c.k), f"{c.rows:,}", _format_interval(c.gap), _format_interval(c.proxy)] for c in found
    ]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\nRank correlation of gap and proxy over these {len(found)}: {whole:.2f}.\n"


def _format_interval(value: Interval) -> str:
    return with_limits(*value, "+.3f")

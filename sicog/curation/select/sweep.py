"""Find the threshold of `select` on a development split with ground truth, and measure what self-consistency gains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from sicog.config import Config
from sicog.console import say_finished
from sicog.curation.score.columns import all_columns, columns_of
from sicog.curation.select.threshold import PAPER_K, By, threshold_at
from sicog.curation.select.verdicts import Rule, Styles, eligible, verdicts
from sicog.records import Dropped, Query, ScoredSet
from sicog.stages.provenance import write_manifest, write_run_json
from sicog.stages.reader import FolderSource
from sicog.stages.storage import count_rows, is_finished, write_json

THRESHOLD_FILE = "threshold.json"
Truth = Callable[[Query, str], float]  # correctness of a compared text for its query, higher is better


class SweepConfig(Config):
    """Config of the sweep. by, styles, min_candidates: the same as in `select`."""

    input: Path
    """Scored sets."""
    out_dir: Path
    by: By = "score"
    styles: Styles | None = None
    min_candidates: int = Field(default=3, ge=2)
    threshold_k: int = Field(default=PAPER_K, ge=2)
    """Number of candidates that the threshold is stated for; `select` reads it from the file."""
    keep_share: tuple[float, float] = (0.3, 0.7)
    """Smallest and largest share of rows that the threshold may keep."""
    labels: Path | None = None
    """File or folder of the ground truth; its digest is recorded."""

    @model_validator(mode="after")
    def _check_keep_share(self) -> SweepConfig:
        if not 0 <= self.keep_share[0] <= self.keep_share[1] <= 1:
            raise ValueError(f"keep_share must ascend within 0..1, got {list(self.keep_share)}")
        return self


@dataclass(frozen=True)
class Cut:
    """One threshold: rows whose best value reaches it are kept. Truths are means; None without rows."""

    threshold: float
    rows_kept: int
    share_kept: float
    truth_kept: float
    truth_dropped: float | None


@dataclass(frozen=True)
class Sweep:
    """All cuts in ascending order, the best cut, and whether it keeps a share within the bounds."""

    table: tuple[Cut, ...]
    best: Cut
    within_bounds: bool


@dataclass(frozen=True)
class SetTruth:
    """One scored set: the threshold that its best candidate just reaches, and the truth of the best, a random and the
    truest candidate."""

    id: str
    value: float
    selected: float
    random: float  # mean over all eligible candidates: expected truth of a random choice
    truest: float


def sweep(
    best_values: Sequence[float], best_truths: Sequence[float], keep_share: tuple[float, float] = (0.3, 0.7)
) -> Sweep:
    """Try every value as a threshold. The best one has the highest truth of kept rows, with a share within the bounds.

    best_values, best_truths: per row, score (or vote) and truth of the candidate that `select` would choose. Of equal
    thresholds the one that keeps more rows wins. When no cut is within the bounds, the nearest share is taken, and of
    two equally near the one with the higher truth. Raises `ValueError` without rows.
    """
    values_R, truths_R = np.asarray(best_values, dtype=np.float64), np.asarray(best_truths, dtype=np.float64)
    if not len(values_R) or len(values_R) != len(truths_R):
        raise ValueError(f"the sweep needs one value and one truth per row, got {len(values_R)} and {len(truths_R)}")
    if not (np.isfinite(values_R).all() and np.isfinite(truths_R).all()):
        raise ValueError("the sweep got a value or a truth that is not a number")
    order_R = np.argsort(values_R, kind="stable")
    sorted_R, total = values_R[order_R], float(truths_R.sum())
    below_R = np.concatenate(([0.0], np.cumsum(truths_R[order_R])))
    table = []
    for first in np.unique(sorted_R, return_index=True)[1].tolist():
        kept, dropped = len(sorted_R) - first, float(below_R[first])
        table.append(
            Cut(
                threshold=float(sorted_R[first]),
                rows_kept=kept,
                share_kept=kept / len(sorted_R),
                truth_kept=(total - dropped) / kept,
                truth_dropped=dropped / first if first else None,
            )
        )
    low, high = keep_share
    outside = {cut: max(low - cut.share_kept, cut.share_kept - high, 0.0) for cut in table}
    best = min(table, key=lambda cut: (outside[cut], -round(cut.truth_kept, 12), -cut.rows_kept))
    return Sweep(tuple(table), best, within_bounds=outside[best] == 0)


def set_truth(row: ScoredSet, chosen: int, value: float, truth: Truth, places: Sequence[int]) -> SetTruth:
    """Return the truth of the selected candidate of a set, beside the other candidates.

    chosen: its place; value: the threshold that it just reaches; places: of all that may be chosen; truth: called with
    the query and the compared text (a caption's description, a chain's final answer).
    """
    truths = {i: float(truth(row.query, row.candidates[i].compared or "")) for i in places}
    return SetTruth(row.id, value, truths[chosen], sum(truths.values()) / len(truths), max(truths.values()))


def sweep_scored(config: SweepConfig, truth: Truth) -> Path:
    """Sweep over a folder of scored sets; writes and returns `threshold.json`, which `select` reads.

    Raises `ValueError` when the folder mixes tasks or encoders, or has no row with a candidate to choose.
    """
    inputs = {"scored": config.input} | ({"labels": config.labels} if config.labels else {})
    write_run_json(config.out_dir, step="sweep", config=config, inputs=inputs)
    path = config.out_dir / THRESHOLD_FILE
    if is_finished(config.out_dir):
        say_finished("sweep", config.out_dir)
        return path
    kinds, rows, dropped = set(), [], Counter[str]()
    source = FolderSource(config.input, ScoredSet, step="sweep")
    records = source.read(0, len(source))
    rule = Rule(config.by, None, config.styles, config.min_candidates)
    for part in all_columns(columns_of(config.input)):
        found = verdicts(part, rule, {})
        values = threshold_at(found.agreement, config.threshold_k).tolist()
        allowed = part.places(eligible(part, config.styles))
        of_rows = zip(found.reasons, found.chosen.tolist(), values, allowed, records, strict=False)
        for reason, chosen, value, places, row in of_rows:
            if isinstance(row, Dropped):
                dropped[row.reason] += 1
                continue
            kinds.add((row.query.task, row.encoder))
            if reason:
                dropped[reason] += 1
            else:
                rows.append(set_truth(row, chosen, value, truth, places))
    if len(kinds) != 1 or not rows:
        raise ValueError(
            f"{config.input}: a sweep needs rows of one task and one encoder with candidates to choose from. "
            f"Found {len(rows)} such rows of {sorted(kinds)}"
        )
    write_json(path, _summary(config, kinds.pop(), rows))
    n_rows = count_rows(config.input)
    if n_rows != len(rows) + dropped.total():
        raise AssertionError(f"{config.input}: {n_rows} rows, of which {len(rows)} and {dropped.total()} were read")
    counts = {"rows_in": n_rows, "rows_out": len(rows), "dropped": dict(sorted(dropped.items())), "failed": {}}
    write_manifest(config.out_dir, "sweep", [path.name], **counts)
    return path


def _summary(config: SweepConfig, kind: tuple[str, str], rows: Sequence[SetTruth]) -> dict[str, Any]:
    found = sweep([r.value for r in rows], [r.selected for r in rows], config.keep_share)
    mean = {name: sum(getattr(r, name) for r in rows) / len(rows) for name in ("selected", "random", "truest")}
    return {
        "by": config.by,
        "threshold_k": config.threshold_k,
        "min_candidates": config.min_candidates,
        "task": kind[0],
        "encoder": kind[1],
        "styles": config.styles,
        "keep_share": config.keep_share,
        "within_bounds": found.within_bounds,
        "rows": len(rows),
        **asdict(found.best),
        "truth_of": mean,
        "table": [asdict(cut) for cut in found.table],
    }

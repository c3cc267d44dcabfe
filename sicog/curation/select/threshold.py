"""Thresholds: stated as scores of K = 3 candidates, compared as agreement with the others.

A score holds the similarity of a candidate to itself, so a score of t among K means an agreement of (K t - 1) / (K - 1)
with the others: 0.85 means 0.775 among 3 and 0.82 among 6. A threshold is stated for `threshold_k` candidates, 3 as in
the paper, and asks for the same agreement whatever the number of candidates of a row. Votes are the same with equality
for similarity: a share of 2/3 among 3 is an agreement of 0.5, half of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sicog.curation.score.self_consistency import DECIMALS
from sicog.stages.storage import read_json

By = Literal["score", "vote"]
PAPER_K = 3


def agreement_of(share: Any, k: Any) -> Any:
    """(K t - 1) / (K - 1), rounded to 1e-6; numbers or arrays, K above 1."""
    return np.round((k * share - 1) / (k - 1), DECIMALS)


def stated(agreement: Any, k: int) -> Any:
    """The threshold at K candidates that asks for this agreement: what `agreement_of` undoes."""
    return np.round((1 + (k - 1) * agreement) / k, DECIMALS + 3)  # digits enough for the way back


def agreement_in(marks: Mapping[str, Any]) -> float | None:
    """How far a row's candidate agrees with the others, by what `select` wrote of it in `extra`; None where that says
    nothing: not scored, or alone.

    The agreement itself; without it the score, then the vote, among `k` candidates (`PAPER_K` where that is not told).
    """
    agreement, k, share = _number(marks.get("agreement")), _number(marks.get("k")), share_in(marks)
    k = PAPER_K if k is None else k
    if agreement is not None or share is None or k < 2:
        return agreement
    return float(agreement_of(share, k))


def share_in(marks: Mapping[str, Any]) -> float | None:
    """The score of a row's candidate, else its vote, by the same; None without either."""
    score, vote = _number(marks.get("score")), _number(marks.get("vote"))
    return vote if score is None else score


def _number(value: Any) -> float | None:
    """Users' rows may hold anything under these names."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


@dataclass(frozen=True)
class Threshold:
    """A cut, the number of candidates it is stated for, and what it was found for (None: it holds for anything)."""

    value: float
    k: int = PAPER_K
    task: str | None = None
    encoder: str | None = None

    @cached_property
    def agreement(self) -> float:
        """The least agreement of a kept row."""
        return float(agreement_of(self.value, self.k))

    def stated_for(self, k: int) -> float:
        """The same cut, stated for another number of candidates."""
        return self.value if k == self.k else float(stated(self.agreement, k))

    def check(self, row_id: str, task: str, encoder: str) -> None:
        """Raises `ValueError` when the cut was found on another task, or for scores of another encoder."""
        if self.task and task != self.task:
            raise ValueError(f"row {row_id} is of task {task}, but the threshold was found for {self.task}")
        if self.encoder and encoder != self.encoder:
            raise ValueError(f"row {row_id} was scored by {encoder}, but the threshold was found for {self.encoder}")


def read_threshold(path: Path, by: By, styles: Sequence[str] | None, min_candidates: int) -> Threshold:
    """The threshold in a file that the sweep wrote, which must have chosen candidates in the same way."""
    found = _read(path)
    here = {"by": by, "styles": list(styles) if styles else None, "min_candidates": min_candidates}
    for name, value in here.items():
        if found.get(name, value) != value:
            raise ValueError(f"threshold_file: {path} is for {name}: {found[name]}, the config has {value}")
    return _threshold(path, found)


def threshold_in(path: Path) -> Threshold:
    """The threshold in a file that the sweep wrote, however it chose candidates."""
    return _threshold(path, _read(path))


def _read(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("threshold"), (int, float)):
        raise ValueError(f"threshold_file: {path} holds no number under 'threshold'")
    return found


def _threshold(path: Path, found: Mapping[str, Any]) -> Threshold:
    if not isinstance(k := found.get("threshold_k", PAPER_K), int) or k < 2:
        raise ValueError(f"threshold_file: {path}: threshold_k is {k!r}, not a number of candidates above 1")
    return Threshold(float(found["threshold"]), k, found.get("task"), found.get("encoder"))

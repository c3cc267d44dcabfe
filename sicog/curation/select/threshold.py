"""Thresholds: stated as scores of K = 3 candidates, compared as agreement with the other candidates.

A score includes the similarity of a candidate to itself. So a score of t among K candidates means an agreement of
(K t - 1) / (K - 1) with the others: 0.85 means 0.775 among 3 and 0.82 among 6. A threshold is stated for `threshold_k`
candidates, 3 as in the paper. It requires the same agreement for any number of candidates. Votes use equality instead
of similarity: a share of 2/3 among 3 is an agreement of 0.5, half of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sicog.curation.score.self_consistency import DECIMALS
from sicog.records import CandidateOrigin
from sicog.stages.storage import read_json

By = Literal["score", "vote"]
PAPER_K = 3


def agreement_of(share: Any, k: Any) -> Any:
    """Return (K t - 1) / (K - 1), rounded to 1e-6; numbers or arrays, K above 1."""
    return np.round((k * share - 1) / (k - 1), DECIMALS)


def threshold_at(agreement: Any, k: int) -> Any:
    """Return the threshold at K candidates that means this agreement; the inverse of `agreement_of`."""
    return np.round((1 + (k - 1) * agreement) / k, DECIMALS + 3)  # enough digits to invert it


def stored_agreement(origin: CandidateOrigin) -> float | None:
    """Return the agreement of an example's candidate with the others; None when it is unknown.

    It is `agreement`; without it `score`, then `vote`, among `k` candidates (`PAPER_K` when k is missing). None for a
    candidate without scores, or without other candidates.
    """
    share, k = score_or_vote(origin), PAPER_K if origin.k is None else origin.k
    if origin.agreement is not None or share is None or k < 2:
        return origin.agreement
    return float(agreement_of(share, k))


def score_or_vote(origin: CandidateOrigin) -> float | None:
    """Return the score of an example's candidate, else its vote; None without either."""
    return origin.vote if origin.score is None else origin.score


@dataclass(frozen=True)
class Threshold:
    """A threshold, the number of candidates it is stated for, and its task and encoder (None: any)."""

    value: float
    k: int = PAPER_K
    task: str | None = None
    encoder: str | None = None

    @cached_property
    def agreement(self) -> float:
        """Return the minimum agreement of a kept row."""
        return float(agreement_of(self.value, self.k))

    def stated_for(self, k: int) -> float:
        """The same cut, stated for another number of candidates."""
        return self.value if k == self.k else float(threshold_at(self.agreement, k))

    def check(self, row_id: str, task: str, encoder: str) -> None:
        """Raise `ValueError` when the threshold was found on another task, or for another encoder."""
        if self.task and task != self.task:
            raise ValueError(
                f"row {row_id} is of task {task}, but the threshold was found for {self.task}. Use one for {task}"
            )
        if self.encoder and encoder != self.encoder:
            raise ValueError(
                f"row {row_id} was scored by {encoder}, but the threshold was found for {self.encoder}. "
                "Repeat the sweep"
            )


def read_threshold(path: Path, by: By, styles: Sequence[str] | None, min_candidates: int) -> Threshold:
    """Read the threshold of a sweep, which must have chosen candidates in the same way."""
    found = _read(path)
    here = {"by": by, "styles": list(styles) if styles else None, "min_candidates": min_candidates}
    for name, value in here.items():
        if found.get(name, value) != value:
            raise ValueError(
                f"threshold_file: {path} is for {name}: {found[name]}, but the config has {value}. Make them equal"
            )
    return _threshold(path, found)


def threshold_in(path: Path) -> Threshold:
    """The threshold in a file that the sweep wrote, however it chose candidates."""
    return _threshold(path, _read(path))


def _read(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("threshold"), (int, float)):
        raise ValueError(f"threshold_file: {path} has no number under 'threshold'. Give a file that the sweep wrote")
    return found


def _threshold(path: Path, found: Mapping[str, Any]) -> Threshold:
    if not isinstance(k := found.get("threshold_k", PAPER_K), int) or k < 2:
        raise ValueError(f"threshold_file: {path}: threshold_k is {k!r}, not a number of candidates above 1")
    return Threshold(float(found["threshold"]), k, found.get("task"), found.get("encoder"))

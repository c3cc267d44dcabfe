"""Quality of a scorer: truth of its picks, and how well its scores separate right picks from wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sicog.lab.true_candidates import LabRow
from sicog.statistics.intervals import Interval, mean_interval, paired_difference_interval

RIGHT = 0.5  # minimum truth of a right pick: F1 of a caption; answers are 0 or 1
COVERAGES = 20


@dataclass(frozen=True)
class ScorerQuality:
    """Quality of one scorer on one task.

    truth: mean truth of the picks; over_random: truth minus the truth of a random candidate, paired by row.
    truest: share of rows whose pick is as true as the truest candidate.
    auroc: probability that a right pick has a higher score than a wrong one (0.5: scores carry no information).
    risk: for each share of kept rows, best scores first, 1 - mean truth of the kept rows; aurc is its mean.
    gap: truth of the picks on the development split minus truth of the student's greedy texts; None if not measured.
    Intervals are 95 %; rows of one image form a group.
    """

    truth: Interval
    over_random: Interval
    truest: Interval
    auroc: Interval
    aurc: float
    risk: tuple[tuple[float, float], ...]
    gap: Interval | None = None


def scorer_quality(
    rows: Sequence[LabRow], scores: Sequence[Sequence[float]], *, resamples: int = 500, seed: int = 0
) -> ScorerQuality:
    """Measure scores (one list per row, one number per candidate) for selecting candidates and dropping rows."""
    picks = [list(row_scores).index(max(row_scores)) for row_scores in scores]  # the first of equal scores
    value_R = np.array([s[i] for s, i in zip(scores, picks, strict=True)], dtype=np.float64)
    truth_R = np.array([row.truths[i] for row, i in zip(rows, picks, strict=True)], dtype=np.float64)
    random = [float(np.mean(row.truths)) for row in rows]
    truest = [float(row.truths[i] == max(row.truths)) for row, i in zip(rows, picks, strict=True)]
    images = [row.image for row in rows]
    risk = risk_coverage(value_R, truth_R)
    return ScorerQuality(
        truth=mean_interval(truth_R.tolist(), images),
        over_random=paired_difference_interval(random, truth_R.tolist(), images),
        truest=mean_interval(truest, images),
        auroc=_auroc_interval(value_R, truth_R >= RIGHT, images, resamples, seed),
        aurc=float(np.mean([r for _, r in risk])),
        risk=tuple(risk),
    )


def auroc(values_R: NDArray[np.float64], right_R: NDArray[np.bool_]) -> float:
    """Return P(right value > wrong value), ties count half (Mann and Whitney 1947); nan unless both occur."""
    n_right, n_wrong = int(right_R.sum()), int((~right_R).sum())
    if not n_right or not n_wrong:
        return float("nan")
    return float((ranks(values_R)[right_R].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def ranks(values_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 1 for the lowest value; ties get their mean rank."""
    _, inverse, counts = np.unique(values_R, return_inverse=True, return_counts=True)
    found: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return found


def _auroc_interval(
    values_R: NDArray[np.float64], right_R: NDArray[np.bool_], images: Sequence[str], resamples: int, seed: int
) -> Interval:
    """Return the percentile bootstrap interval; images are resampled."""
    numbers: dict[str, int] = {}
    group_R = np.array([numbers.setdefault(image, len(numbers)) for image in images])
    members = np.split(np.argsort(group_R, kind="stable"), np.cumsum(np.bincount(group_R))[:-1])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        found.append(auroc(values_R[drawn], right_R[drawn]))
    low, high = np.nanpercentile(found, [2.5, 97.5]) if np.isfinite(found).any() else (float("nan"), float("nan"))
    return Interval(auroc(values_R, right_R), float(low), float(high))


def risk_coverage(values_R: NDArray[np.float64], truth_R: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return (share of kept rows, 1 - mean truth of kept rows), best values first (Geifman and El-Yaniv 2017).

    Rows of equal value are kept together with their mean truth, so that their order does not matter.
    """
    _, inverse = np.unique(-values_R, return_inverse=True)
    tied = np.bincount(inverse, weights=truth_R) / np.bincount(inverse)
    sorted_truth = tied[np.sort(inverse)]
    kept = np.cumsum(sorted_truth) / np.arange(1, len(truth_R) + 1)
    ends = [max(1, round(len(truth_R) * i / COVERAGES)) for i in range(1, COVERAGES + 1)]
    return [(end / len(truth_R), float(1 - kept[end - 1])) for end in ends]

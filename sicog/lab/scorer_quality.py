"""What a scorer is worth: how true its picks are, and how well its scores tell true picks from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sicog.lab.true_candidates import LabRow
from sicog.statistics.intervals import Interval, mean_interval, paired_difference_interval

RIGHT = 0.5  # a pick of at least this truth is right: a caption's F1; answers are 0 or 1
COVERAGES = 20


@dataclass(frozen=True)
class Worth:
    """One scorer on one task.

    truth: mean truth of the picks; over_random: minus that of a random candidate, paired by row.
    truest: the share of rows whose pick is as true as the truest candidate.
    auroc: the chance that a right pick has a higher score than a wrong one (0.5: the scores say nothing).
    risk: for each share of rows kept, best scores first, 1 - the mean truth of the kept; aurc is its mean.
    gap: truth of the picks on the development split minus that of the student's own greedy texts; None where a run has
    measured none.
    Intervals are of 95 %, rows of one image taken together.
    """

    truth: Interval
    over_random: Interval
    truest: Interval
    auroc: Interval
    aurc: float
    risk: tuple[tuple[float, float], ...]
    gap: Interval | None = None


def worth(rows: Sequence[LabRow], scores: Sequence[Sequence[float]], *, resamples: int = 500, seed: int = 0) -> Worth:
    """How good these scores (one list a row, one number a candidate) are for choosing and for dropping."""
    picks = [list(row_scores).index(max(row_scores)) for row_scores in scores]  # the first of equal ones
    value_R = np.array([s[i] for s, i in zip(scores, picks, strict=True)], dtype=np.float64)
    truth_R = np.array([row.truths[i] for row, i in zip(rows, picks, strict=True)], dtype=np.float64)
    random = [float(np.mean(row.truths)) for row in rows]
    truest = [float(row.truths[i] == max(row.truths)) for row, i in zip(rows, picks, strict=True)]
    images = [row.image for row in rows]
    risk = risk_coverage(value_R, truth_R)
    return Worth(
        truth=mean_interval(truth_R.tolist(), images),
        over_random=paired_difference_interval(random, truth_R.tolist(), images),
        truest=mean_interval(truest, images),
        auroc=_auroc_interval(value_R, truth_R >= RIGHT, images, resamples, seed),
        aurc=float(np.mean([r for _, r in risk])),
        risk=tuple(risk),
    )


def auroc(values_R: NDArray[np.float64], right_R: NDArray[np.bool_]) -> float:
    """P(value of a right one > value of a wrong one), ties count half (Mann and Whitney 1947); nan without both."""
    n_right, n_wrong = int(right_R.sum()), int((~right_R).sum())
    if not n_right or not n_wrong:
        return float("nan")
    return float((ranks(values_R)[right_R].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def ranks(values_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for the lowest, equal ones their mean rank."""
    _, inverse, counts = np.unique(values_R, return_inverse=True, return_counts=True)
    found: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return found


def _auroc_interval(
    values_R: NDArray[np.float64], right_R: NDArray[np.bool_], images: Sequence[str], resamples: int, seed: int
) -> Interval:
    """The percentile bootstrap, drawing images."""
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
    """(share of rows kept, 1 - mean truth of the kept), best values first; rows of one value are kept together.

    Ties share their mean truth, so that the order of equal rows decides nothing. (Geifman and El-Yaniv 2017.)
    """
    _, inverse = np.unique(-values_R, return_inverse=True)
    tied = np.bincount(inverse, weights=truth_R) / np.bincount(inverse)
    sorted_truth = tied[np.sort(inverse)]
    kept = np.cumsum(sorted_truth) / np.arange(1, len(truth_R) + 1)
    ends = [max(1, round(len(truth_R) * i / COVERAGES)) for i in range(1, COVERAGES + 1)]
    return [(end / len(truth_R), float(1 - kept[end - 1])) for end in ends]

"""95 % intervals of the mini world's figures: of a share, of a mean, of a paired difference."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959964  # the normal distribution's 97.5 % point


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return with_limits(*self)


def with_limits(value: float, low: float | None, high: float | None, form: str = ".3f") -> str:
    """Return `0.612 [0.590, 0.634]`, or the value alone without limits (None or nan)."""
    known = low is not None and high is not None and not math.isnan(low)
    return f"{value:{form}}" + (f" [{low:{form}}, {high:{form}}]" if known else "")


def share_interval(successes: int, total: int) -> Interval:
    """Wilson's score interval of a share; total 0 gives nan. (Wilson 1927, JASA 22.)"""
    if total == 0:
        return Interval(math.nan, math.nan, math.nan)
    share = successes / total
    centre = (share + Z * Z / (2 * total)) / (1 + Z * Z / total)
    half = Z * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total)) / (1 + Z * Z / total)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def mean_interval(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> Interval:
    """Normal interval of a mean; fewer than two values (or groups) give nan limits.

    `groups` names for each value what it shares with others (the image of a question): values of one group are not
    independent, and the variance is then the cluster-robust one, from the residuals' sums per group.
    """
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"{len(values)} values but {len(groups)} groups")
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    residuals: np.ndarray = x - mean
    if groups is not None:
        numbers: dict[Hashable, int] = {}
        index = np.array([numbers.setdefault(g, len(numbers)) for g in groups])
        residuals = np.bincount(index, weights=residuals)
    n = len(residuals)
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    half = Z * math.sqrt(n / (n - 1) * float((residuals**2).sum())) / len(x)
    return Interval(mean, mean - half, mean + half)


def paired_difference_interval(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable] | None = None
) -> Interval:
    """Interval of mean(second - first), where both were measured on the same items in the same order."""
    if len(first) != len(second):
        raise ValueError(f"a paired difference needs equally many values, got {len(first)} and {len(second)}")
    return mean_interval([b - a for a, b in zip(first, second, strict=True)], groups)

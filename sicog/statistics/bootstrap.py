"""Intervals of a benchmark's figure by bootstrap over its questions, and a paired test between two models.

A figure is a sum of ratios of sums (a mean is one, F1 one, MME twenty), so that thousands of resamples are a few matrix
products. Shapes: N questions, G groups of them (each resampled whole), R resamples, K ratios.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
_AT_ONCE = 200  # resamples in memory
Ratios = Sequence[tuple[np.ndarray, np.ndarray]]  # numerator and denominator, float64 [N] each


class Estimate(NamedTuple):
    """A figure with its 95 % interval (percentiles of the resamples); fewer than two groups give nan limits."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """second - first with its 95 % interval, and the two-sided p of exchanging the models' answers group by group."""

    value: float
    low: float
    high: float
    p: float


def estimate(ratios: Ratios, groups: Sequence[str], *, seed: int = 0) -> Estimate:
    """The figure and its interval."""
    sums_KG = _sums(ratios, groups)
    value = float(_figure(*(x.sum(axis=1)[:, None] for x in sums_KG))[0])
    n_groups = sums_KG[0].shape[1]
    if n_groups < 2:
        return Estimate(value, math.nan, math.nan)
    resampled = _resample(lambda w: _figure(*(x @ w.T for x in sums_KG)), n_groups, seed)
    return Estimate(value, *_limits(resampled))


def difference(first: Ratios, second: Ratios, groups: Sequence[str], *, seed: int = 0) -> Difference:
    """Of two models on the same questions in the same order."""
    one_KG, other_KG = _sums(first, groups), _sums(second, groups)
    n_groups = one_KG[0].shape[1]

    def gap(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
        return _figure(*other) - _figure(*one)

    totals = [[x.sum(axis=1)[:, None] for x in sums] for sums in (one_KG, other_KG)]
    value = float(gap(*totals)[0])
    if n_groups < 2:
        return Difference(value, math.nan, math.nan, math.nan)
    resampled = _resample(lambda w: gap([x @ w.T for x in one_KG], [x @ w.T for x in other_KG]), n_groups, seed)
    changes = [b - a for a, b in zip(one_KG, other_KG, strict=True)]
    draw, exchanged = np.random.default_rng(seed + 1), []
    for _ in range(0, RESAMPLES, _AT_ONCE):
        swaps_RG = draw.integers(0, 2, (_AT_ONCE, n_groups)).astype(float)
        moved = [change @ swaps_RG.T for change in changes]
        pairs = [
            [t + m for t, m in zip(totals[0], moved, strict=True)],
            [t - m for t, m in zip(totals[1], moved, strict=True)],
        ]
        exchanged.append(gap(*pairs))
    as_large = np.abs(np.concatenate(exchanged)) >= abs(value) - 1e-9
    # The observed one counts among the exchanges: a p of 0 cannot be had from finitely many.
    return Difference(value, *_limits(resampled), float((as_large.sum() + 1) / (RESAMPLES + 1)))


def _sums(ratios: Ratios, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators, [K, G] each."""
    numbers: dict[str, int] = {}
    index_N = np.array([numbers.setdefault(g, len(numbers)) for g in groups])

    def sums_of(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([np.bincount(index_N, weights=v, minlength=len(numbers)) for v in values])

    return sums_of([n for n, _ in ratios]), sums_of([d for _, d in ratios])


def _figure(numerators_KR: np.ndarray, denominators_KR: np.ndarray) -> np.ndarray:
    """[R]: 100 times the sum of the ratios; a ratio over nothing is 0."""
    filled = np.where(denominators_KR > 0, denominators_KR, 1.0)
    return 100 * np.where(denominators_KR > 0, numerators_KR / filled, 0.0).sum(axis=0)


def _resample(figure: Callable[[np.ndarray], np.ndarray], n_groups: int, seed: int) -> np.ndarray:
    draw, found = np.random.default_rng(seed), []
    for _ in range(0, RESAMPLES, _AT_ONCE):
        found.append(figure(draw.multinomial(n_groups, np.full(n_groups, 1 / n_groups), _AT_ONCE).astype(float)))
    return np.concatenate(found)


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)

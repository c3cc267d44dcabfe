"""Exact totals over all rows at evenly spaced thresholds, for the page's threshold slider."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

WANTED = 240  # number of cuts, the positions of the slider


class Row(NamedTuple):
    """A row that a threshold keeps or drops: style, value and (if known) truth of its chosen candidate."""

    style: str
    value: float
    truth: float | None = None


def totals(rows: Sequence[Row], threshold: float | None) -> dict[str, Any] | None:
    """Return rows, summed values and summed truth between each cut and the next, by style; None without rows.

    A threshold at `cuts[i]` keeps exactly the rows from place i on. `at`: the place of the threshold in use, which is
    one of the cuts; without one, the place that keeps the upper half.
    """
    if not rows:
        return None
    values = np.array([row.value for row in rows])
    edges = _edges(float(values.min()), float(values.max()), threshold)
    places = np.searchsorted(edges, values + 1e-9, side="right") - 1  # the margin keeps a value at a cut above it
    styles: dict[str, dict[str, Any]] = {}
    for style in sorted({row.style for row in rows}):
        own = np.array([row.style == style for row in rows])
        styles[style] = {
            "rows": np.bincount(places[own], minlength=len(edges)).tolist(),
            "sum": np.bincount(places[own], weights=values[own], minlength=len(edges)).round(6).tolist(),
        }
        truths = [row.truth for row in rows if row.style == style]
        if all(truth is not None for truth in truths):
            weights = np.array(truths, dtype=np.float64)
            styles[style]["truth"] = np.bincount(places[own], weights=weights, minlength=len(edges)).round(6).tolist()
    used = float(np.median(values)) if threshold is None else threshold
    at = int(np.searchsorted(edges, used - 1e-9))
    return {"cuts": edges.tolist(), "at": min(at, len(edges) - 1), "styles": styles, "rows": len(rows)}


def _edges(low: float, high: float, threshold: float | None) -> np.ndarray:
    """Return multiples of a round step from below the lowest value to above the highest, plus the threshold."""
    step = round_step((high - low) / WANTED)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9) + 1
    edges = {round(i * step, 9) for i in range(first, last + 1)}
    if threshold is not None and all(abs(edge - threshold) > 1e-9 for edge in edges):
        edges.add(threshold)
    return np.array(sorted(edges))


def round_step(rough: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least `rough`; 0.01 if all values are equal."""
    if rough <= 1e-9:
        return 0.01
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)

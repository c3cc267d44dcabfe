"""Intervals: known values, coverage by simulation, clusters, pairs."""

import math

import numpy as np
import pytest

from sicog.lab.gap_proxy import _format_interval
from sicog.statistics.intervals import Interval, mean_interval, paired_difference_interval, share_interval


def test_wilson_by_hand():
    # Newcombe 1998, Statistics in Medicine 17:857, table I.
    assert share_interval(81, 263) == pytest.approx((0.30798, 0.2553, 0.3662), abs=5e-5)
    assert share_interval(0, 20) == pytest.approx((0.0, 0.0, 0.1611), abs=5e-5)
    assert all(math.isnan(x) for x in share_interval(0, 0))


def test_mean_by_hand():
    values = [1.0, 2.0, 3.0, 4.0]
    half = 1.959964 * np.std(values, ddof=1) / 2
    assert mean_interval(values) == pytest.approx((2.5, 2.5 - half, 2.5 + half))
    assert mean_interval(values, groups="abcd") == pytest.approx(mean_interval(values))
    assert math.isnan(mean_interval([1.0]).low) and math.isnan(mean_interval([]).value)


def test_an_interval_that_is_none_is_not_shown():
    assert str(mean_interval([1.0])) == "1.000" and str(mean_interval([1.0, 1.0])) == "1.000 [1.000, 1.000]"
    assert (
        _format_interval(mean_interval([1.0])) == "+1.000"
        and _format_interval(Interval(0.5, 0, 1)) == "+0.500 [+0.000, +1.000]"
    )


def test_copies_in_a_group_add_no_certainty():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert mean_interval(values * 3, groups=list(range(5)) * 3) == pytest.approx(mean_interval(values))


def test_coverage_with_groups():
    rng, hits = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(100), 5)
    for _ in range(400):
        values = rng.normal(size=100)[groups] + rng.normal(size=500)
        interval = mean_interval(values, groups.tolist())
        hits += interval.low <= 0 <= interval.high
    assert 0.92 <= hits / 400 <= 0.98


def test_pairs():
    first, second = [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    assert paired_difference_interval(first, second).value == 0.5
    assert paired_difference_interval(first, first) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="equally many values, got 4 and 1"):
        paired_difference_interval(first, [1.0])
    with pytest.raises(ValueError, match="4 values but 1 groups"):
        mean_interval(first, groups=["a"])
    assert str(share_interval(81, 263)) == "0.308 [0.255, 0.366]"

"""readable.py: the numbers of plans, without exponents."""

import pytest

from sicog.estimates.arithmetic.readable import duration, large, power_of_ten, small


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (6.37e-6, "< 0.01"),
        (0.01, "0.01"),
        (0.3456, "0.346"),
        (17.68, "17.7"),
        (99.96, "100"),
        (1234.5, "1,234"),
    ],
)
def test_small_figures(value, said):
    assert small(value) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (950, "950"), (1_240, "1.24 k"), (30_000, "30 k"), (999_600, "1,000 k"), (2e15, "2,000 T")],
)
def test_counts(number, said):
    assert large(number) == said


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0"), (12, "12"), (1.25e18, "1.25 x 10^18"), (4.2e13, "42 x 10^12"), (6.37e2, "637")]
)
def test_powers(number, said):
    assert power_of_ten(number) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.00174, "less than a second"),
        (1.2, "about 1 second"),
        (119, "about 119 seconds"),
        (300, "about 5 minutes"),
        (5_400, "about 90 minutes"),
        (36_000, "about 10.0 hours"),
        (7.2e6, "about 2,000.0 hours"),
    ],
)
def test_durations(seconds, said):
    assert duration(seconds) == said

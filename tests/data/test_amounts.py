"""amounts.py: counts and shares are exact, and what cannot be is a sentence."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.curation.build.build import BuildSource
from sicog.data.amounts import amounts


def sources(**given):
    return [BuildSource(name=name, path=Path(name), **amount) for name, amount in given.items()]


def test_shares_of_a_total():
    three = sources(captions={"share": 0.55}, answers={"share": 0.4}, text={"share": 0.05})
    assert amounts(three, [300_000] * 3, 213_000, "error") == [117_150, 85_200, 10_650]
    with_count = sources(captions={"share": 0.5}, answers={"share": 0.4}, text={"count": 100})
    assert amounts(with_count, [2000] * 3, 1000, "error") == [500, 400, 100]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.integers(1, 1_000_000))
def test_shares_are_exact_to_a_row(parts, total):
    shares = [part / sum(parts) for part in parts]
    rows = amounts(
        [BuildSource(name=str(i), path=Path("x"), share=s) for i, s in enumerate(shares)],
        [total] * len(shares),
        total,
        "error",
    )
    assert sum(rows) == total and all(abs(n - share * total) < 1 + 1e-6 for n, share in zip(rows, shares, strict=True))


def test_caps_weights_and_all():
    four = sources(a={"at_most": 5}, b={"at_most": 50}, c={"weight": 2.5}, d={})
    assert amounts(four, [10, 10, 3, 7], None, "error") == [5, 10, 8, 7]
    assert amounts(sources(a={"count": 3}), [10], 3, "error") == [3]


def test_too_few_rows_are_an_error_that_says_what_is_possible_or_are_all_taken():
    two = sources(captions={"share": 0.9}, text={"share": 0.1})
    with pytest.raises(
        ValueError, match="text: share 0.1 of total 1000 is 100 rows, but text holds 40 .* total can be 400"
    ):
        amounts(two, [5000, 40], 1000, "error")
    assert amounts(two, [5000, 40], 1000, "take_all") == [900, 40]
    assert amounts(sources(a={"count": 9}), [4], None, "take_all") == [4]
    with pytest.raises(ValueError, match="count 9, but a holds 4 rows"):
        amounts(sources(a={"count": 9}), [4], None, "error")


def test_amounts_that_do_not_make_the_total():
    with pytest.raises(ValueError, match="the shares make 700 of total 1000 rows, but 1000 are needed"):
        amounts(sources(a={"share": 0.3}, b={"share": 0.4}), [9999] * 2, 1000, "error")
    with pytest.raises(ValueError, match="beside the 300 rows of b"):
        amounts(sources(a={"share": 1.0}, b={"count": 300}), [9999] * 2, 1000, "error")
    with pytest.raises(ValueError, match="the shares make 0 of total 1000"):
        amounts(sources(a={"count": 300}), [9999], 1000, "error")
    with pytest.raises(ValueError, match="count or share, not both"):
        sources(a={"count": 3, "share": 0.5})

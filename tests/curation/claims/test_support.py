"""Support and agreement against plain nested loops, and their bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicog.curation.claims.support import agreements, stated_by_key, supports

sets = st.lists(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=5), min_size=1, max_size=6)


def plain_support(keys, i, claim):
    others = [j for j in range(len(keys)) if j != i]
    return sum(claim in keys[j] for j in others) / len(others)


def plain_agreement(keys, i, measure):
    if measure == "support":
        return sum(plain_support(keys, i, claim) for claim in keys[i]) / len(keys[i])
    total = 0.0
    for j in range(len(keys)):
        if j == i:
            continue
        hits = sum(claim in keys[j] for claim in keys[i])
        total += 2 * hits / (len(keys[i]) + len(keys[j])) if hits else 0.0
    return total / (len(keys) - 1)


@given(sets)
def test_supports_and_agreements_are_those_of_nested_loops(keys):
    owner, stated = stated_by_key(keys)
    found = supports(owner, stated)
    flat = [(i, claim) for i, own in enumerate(keys) for claim in own]
    assert owner.tolist() == [i for i, _ in flat]
    for value, (i, claim) in zip(found, flat, strict=True):
        assert math.isnan(value) if len(keys) == 1 else value == pytest.approx(plain_support(keys, i, claim), abs=1e-6)
    for measure in ("support", "f1"):
        for i, value in enumerate(agreements(owner, stated, measure)):
            if len(keys) == 1 or not keys[i]:
                assert math.isnan(value)
            else:
                assert value == pytest.approx(plain_agreement(keys, i, measure), abs=1e-6)


@given(sets, st.randoms())
def test_the_order_of_candidates_changes_nothing_but_the_order(keys, random):
    order = list(range(len(keys)))
    random.shuffle(order)
    for measure in ("support", "f1"):
        one = agreements(*stated_by_key(keys), measure)
        other = agreements(*stated_by_key([keys[i] for i in order]), measure)
        np.testing.assert_allclose(one[order], other, atol=2e-6)


def test_all_equal_agree_wholly_and_all_different_not_at_all():
    for measure in ("support", "f1"):
        assert agreements(*stated_by_key([["a", "b"]] * 3), measure).tolist() == [1, 1, 1]
        assert agreements(*stated_by_key([["a"], ["b"], ["c"]]), measure).tolist() == [0, 0, 0]


def test_f1_rewards_the_candidate_that_leaves_nothing_out():
    keys = [["a"], ["a", "b"], ["a", "b"]]
    assert agreements(*stated_by_key(keys), "support").tolist() == [1.0, 0.75, 0.75]
    assert agreements(*stated_by_key(keys), "f1").tolist() == pytest.approx([2 / 3, 5 / 6, 5 / 6], abs=1e-6)

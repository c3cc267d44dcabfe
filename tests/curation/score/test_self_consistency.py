"""The formula against its plainest reading, and the choices made by it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.curation.score.self_consistency import (
    choose_each,
    draw_integer,
    hash128,
    lower_half_places,
    self_consistency,
    votes,
)


def plain(embeddings: np.ndarray, include_self: bool = True) -> list[float]:
    """The original's loop over one set: the mean of all pairwise similarities; nan where there are none."""
    units = [e / np.linalg.norm(e) for e in np.asarray(embeddings, dtype=np.float64)]
    scores = []
    for i, one in enumerate(units):
        others = [float(one @ other) for j, other in enumerate(units) if include_self or j != i]
        scores.append(sum(others) / len(others) if others else math.nan)
    return scores


def plain_pick(scores: list[float]) -> int | None:
    """The first of the highest; None where rounding to 1e-6 may decide otherwise."""
    near = [i for i, s in enumerate(scores) if s > max(scores) - 3e-6]
    first = near[0]
    return first if all(abs(scores[i] - scores[first]) < 1e-12 for i in near) else None


# Few different vectors, so that equal texts and ties are common; sets of 0, 1 and more.
ragged = st.lists(st.lists(st.integers(0, 4), max_size=7), max_size=6)


@settings(max_examples=150, deadline=None)
@given(sets=ragged, width=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_a_ragged_batch_equals_the_plain_loop_over_each_set_and_picks_the_same(sets, width, seed):
    pool = np.random.default_rng(seed).normal(size=(5, width)).astype(np.float32)
    sizes = [len(members) for members in sets]
    embeddings = pool[[i for members in sets for i in members]].reshape(-1, width)
    found = self_consistency(embeddings, sizes)
    allowed = np.ones(len(embeddings), dtype=bool)
    picks, start = choose_each([found.score], allowed, sizes).tolist(), 0
    for n, pick in zip(sizes, picks, strict=True):
        expected = plain(embeddings[start : start + n])
        assert found.score[start : start + n] == pytest.approx(expected, abs=1e-6)
        alone = plain(embeddings[start : start + n], include_self=False)
        assert found.agreement[start : start + n] == pytest.approx(alone, abs=1e-6, nan_ok=True)
        if not n:
            assert pick == -1
        elif (one := plain_pick(expected)) is not None:
            assert pick == one
        start += n


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 8), seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_length_of_vectors_and_order_of_candidates_do_not_matter(n, seed, scale):
    rng = np.random.default_rng(seed)
    embeddings, order = rng.normal(size=(n, 5)), rng.permutation(n)
    scores = self_consistency(embeddings, [n]).score
    assert self_consistency(embeddings * scale, [n]).score == pytest.approx(scores, abs=1.01e-6)
    assert self_consistency(embeddings[order], [n]).score == pytest.approx(scores[order], abs=1.01e-6)
    assert scores.min() >= -1 and scores.max() <= 1 and scores.dtype == np.float64


def alike(n, agreement):
    return np.linalg.cholesky(np.full((n, n), agreement) + (1 - agreement) * np.eye(n))


@pytest.mark.parametrize(("score", "agreement"), [(0.90, 0.88), (0.85, 0.82), (0.80, 0.76)])
def test_at_six_candidates_the_cuts_mean_the_published_agreement(score, agreement):
    """With unit vectors and N = 6, score = 1/6 + 5/6 * mean similarity to the others."""
    found = self_consistency(alike(6, agreement), [6])
    assert found.score == pytest.approx([score] * 6, abs=1e-6)
    assert found.agreement == pytest.approx([agreement] * 6, abs=1e-6)


@pytest.mark.parametrize(("score", "agreement"), [(0.90, 0.85), (0.85, 0.775), (0.80, 0.70)])
def test_at_three_candidates_the_same_cuts_ask_for_less(score, agreement):
    found = self_consistency(alike(3, agreement), [3])
    assert found.score == pytest.approx([score] * 3, abs=1e-6)
    assert found.agreement == pytest.approx([agreement] * 3, abs=1e-6)


def test_one_candidate_scores_one_without_agreement_and_two_always_tie():
    rng = np.random.default_rng(1)
    score, agreement = self_consistency(rng.normal(size=(41, 8)), [0, 1, 0, *[2] * 20, 0])
    assert score[0] == 1.0 and np.isnan(agreement[0]) and not np.isnan(agreement[1:]).any()
    assert (score[1::2] == score[2::2]).all() and (agreement[1::2] == agreement[2::2]).all()


def test_mistakes_are_sentences():
    with pytest.raises(ValueError, match="add up to 3, but there are 2"):
        self_consistency(np.ones((2, 4)), [3])
    with pytest.raises(ValueError, match="embedding 1 is not finite or has length 0"):
        self_consistency(np.array([[1.0, 0.0], [0.0, 0.0]]), [2])
    with pytest.raises(ValueError, match="embedding 0 is not finite"):
        self_consistency(np.array([[np.nan, 0.0], [1.0, 0.0]]), [2])
    assert self_consistency(np.zeros((0, 0)), []).score.shape == (0,)
    assert self_consistency(np.zeros((0, 0)), [0, 0]).agreement.shape == (0,)


def test_votes_are_shares_of_equal_answers_with_their_margins():
    assert votes(["red", "blue", "red", "red"]) == [(0.75, 0.5), (0.25, -0.5), (0.75, 0.5), (0.75, 0.5)]
    assert votes(["red"]) == [(1.0, 1.0)] and votes([]) == []
    assert votes(["red", "blue"]) == [(0.5, 0.0), (0.5, 0.0)]


def test_votes_may_weigh():
    assert votes(["red", "blue", "red"], [0.25, 0.75, 0.5]) == [(0.5, 0.0), (0.5, 0.0), (0.5, 0.0)]
    assert votes(["red", "blue"], [0.5, -1.0]) == [(1.0, 1.0), (0.0, -1.0)]
    assert votes(["red", "blue"], [0.0, -1.0]) == votes(["red", "blue"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-1, 1)), max_size=9))
def test_votes_are_those_of_the_plain_loop(cast):
    answers, weights = [a for a, _ in cast], [max(w, 0.0) for _, w in cast]
    if not any(weights):
        weights = [1.0] * len(cast)
    for (vote, margin), answer in zip(votes(answers, [w for _, w in cast]), answers, strict=True):
        share = {a: sum(w for b, w in zip(answers, weights, strict=True) if a == b) / sum(weights) for a in answers}
        assert vote == pytest.approx(share[answer], abs=1e-8)
        others = [s for a, s in share.items() if a != answer]
        assert margin == pytest.approx(share[answer] - max(others, default=0.0), abs=1e-8)


def choose(ranks, allowed=None):
    """The choice from one set, ranks numbers or tuples."""
    columns = np.array([r if isinstance(r, tuple) else (r,) for r in ranks], dtype=np.float64).reshape(len(ranks), -1)
    allowed = np.ones(len(ranks), dtype=bool) if allowed is None else np.array(allowed, dtype=bool)
    return int(choose_each(list(columns.T), allowed, [len(ranks)])[0])


def test_ties_go_to_the_lowest_index_that_is_allowed():
    assert choose([0.5, 0.9, 0.9]) == 1
    assert choose([0.5, 0.9, 0.9], [True, False, True]) == 2
    assert choose([(0.5, 0.1), (0.5, 0.2)]) == 1
    assert choose([0.5], [False]) == -1 and choose_each([np.zeros(0)], np.zeros(0, dtype=bool), [0, 0]).tolist() == [
        -1,
        -1,
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from([0.1, 0.5]), st.sampled_from([0, 1]), st.booleans()), max_size=5)))
def test_the_choice_is_that_of_trying_every_candidate(sets):
    flat = [c for members in sets for c in members]
    ranks = [np.array([c[i] for c in flat], dtype=np.float64) for i in (0, 1)]
    found = choose_each(ranks, np.array([c[2] for c in flat], dtype=bool), [len(m) for m in sets])
    tried = [max((i for i, c in enumerate(m) if c[2]), key=lambda i: (*m[i][:2], -i), default=-1) for m in sets]
    assert found.tolist() == tried


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9]), max_size=8))
def test_the_lower_half_leaves_the_chosen_one_out(scores):
    lower = lower_half_places(scores)
    assert lower == sorted(range(len(scores)), key=lambda i: (scores[i], -i))[: len(scores) // 2]
    assert not scores or choose(scores) not in lower


def test_draws_depend_on_seed_and_key_alone():
    assert hash128(0, "a", "b") != hash128(0, "ab") and hash128(0, "a") != hash128(1, "a")
    random.seed(1)
    first = [draw_integer(10, 3, str(i)) for i in range(20)]
    random.seed(2)
    assert first == [draw_integer(10, 3, str(i)) for i in range(20)] and len(set(first)) > 5

"""The formula against its plainest reading, and the choices made by it."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.curation.self_consistency import choose, draw, draw_rejected, hashed, self_consistency, votes


def plain(embeddings: np.ndarray, include_self: bool = True) -> list[float]:
    """The original's loop over one set: the mean of all pairwise similarities."""
    units = [e / np.linalg.norm(e) for e in np.asarray(embeddings, dtype=np.float64)]
    scores = []
    for i, one in enumerate(units):
        others = [float(one @ other) for j, other in enumerate(units) if include_self or j != i]
        scores.append(round(sum(others) / len(others), 6))
    return scores


ragged = st.lists(st.integers(1, 7), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(sizes=ragged, width=st.integers(1, 12), seed=st.integers(0, 2**32 - 1), include_self=st.booleans())
def test_a_ragged_batch_equals_the_plain_loop_over_each_set(sizes, width, seed, include_self):
    sizes = [n + (not include_self) for n in sizes]
    embeddings = np.random.default_rng(seed).normal(size=(sum(sizes), width)).astype(np.float32)
    scores = self_consistency(embeddings, sizes, include_self=include_self)
    start = 0
    for n in sizes:
        expected = plain(embeddings[start : start + n], include_self)
        assert scores[start : start + n] == pytest.approx(expected, abs=1.01e-6)
        start += n


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 8), seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_length_of_vectors_and_order_of_candidates_do_not_matter(n, seed, scale):
    rng = np.random.default_rng(seed)
    embeddings, order = rng.normal(size=(n, 5)), rng.permutation(n)
    scores = self_consistency(embeddings, [n])
    assert self_consistency(embeddings * scale, [n]) == pytest.approx(scores, abs=1.01e-6)
    assert self_consistency(embeddings[order], [n]) == pytest.approx(scores[order], abs=1.01e-6)
    assert scores.min() >= -1 and scores.max() <= 1 and scores.dtype == np.float64


def test_picks_are_those_of_the_plain_loop_on_random_sets():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 9, size=300).tolist()
    embeddings = rng.normal(size=(sum(sizes), 32)).astype(np.float32)
    scores, start = self_consistency(embeddings, sizes), 0
    for n in sizes:
        expected = plain(embeddings[start : start + n])
        assert choose(scores[start : start + n].tolist()) == int(np.argmax(expected))
        start += n


@pytest.mark.parametrize(("score", "agreement"), [(0.90, 0.88), (0.85, 0.82), (0.80, 0.76)])
def test_at_six_candidates_the_cuts_mean_the_published_agreement(score, agreement):
    """Reference-spec 9.2: with unit vectors and N = 6, score = 1/6 + 5/6 * mean similarity to the others."""
    n = 6
    gram = np.full((n, n), agreement) + (1 - agreement) * np.eye(n)
    embeddings = np.linalg.cholesky(gram)
    assert self_consistency(embeddings, [n]) == pytest.approx([score] * n, abs=1e-6)
    assert self_consistency(embeddings, [n], include_self=False) == pytest.approx([agreement] * n, abs=1e-6)


@pytest.mark.parametrize(("score", "agreement"), [(0.90, 0.85), (0.85, 0.775), (0.80, 0.70)])
def test_at_three_candidates_the_same_cuts_ask_for_less(score, agreement):
    gram = np.full((3, 3), agreement) + (1 - agreement) * np.eye(3)
    assert self_consistency(np.linalg.cholesky(gram), [3]) == pytest.approx([score] * 3, abs=1e-6)


def test_one_candidate_scores_one_and_two_always_tie():
    rng = np.random.default_rng(1)
    scores = self_consistency(rng.normal(size=(41, 8)), [1] + [2] * 20)
    assert scores[0] == 1.0
    assert (scores[1::2] == scores[2::2]).all()


def test_mistakes_are_sentences():
    with pytest.raises(ValueError, match="add up to 3, but there are 2"):
        self_consistency(np.ones((2, 4)), [3])
    with pytest.raises(ValueError, match="set 1 has 0 candidates"):
        self_consistency(np.ones((2, 4)), [2, 0])
    with pytest.raises(ValueError, match="needs at least 2"):
        self_consistency(np.ones((1, 4)), [1], include_self=False)
    with pytest.raises(ValueError, match="embedding 1 is not finite or has length 0"):
        self_consistency(np.array([[1.0, 0.0], [0.0, 0.0]]), [2])
    with pytest.raises(ValueError, match="embedding 0 is not finite"):
        self_consistency(np.array([[np.nan, 0.0], [1.0, 0.0]]), [2])
    assert self_consistency(np.zeros((0, 0)), []).shape == (0,)


def test_votes_are_shares_of_equal_answers():
    assert votes(["red", "blue", "red", "red"]) == [0.75, 0.25, 0.75, 0.75]
    assert votes(["red"]) == [1.0]


def test_ties_go_to_the_lowest_index_that_is_allowed():
    assert choose([0.5, 0.9, 0.9]) == 1
    assert choose([0.5, 0.9, 0.9], [True, False, True]) == 2
    assert choose([(0.5, 0.1), (0.5, 0.2)]) == 1
    assert choose([0.5], [False]) is None and choose([]) is None


def test_rejected_comes_uniformly_from_the_lower_half():
    scores = [0.9, 0.2, 0.8, 0.1, 0.7, 0.3]
    drawn = Counter(draw_rejected(scores, 0, seed=1, key=str(i)) for i in range(600))
    assert set(drawn) == {1, 3, 5} and min(drawn.values()) > 150
    assert draw_rejected(scores, 0, seed=1, key="a") == draw_rejected(scores, 0, seed=1, key="a")


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.1, 0.5, 0.5, 0.9]), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_rejected_is_allowed_and_strictly_below_the_chosen_one(scores, seed, data):
    allowed = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    chosen = choose(scores)
    rejected = draw_rejected(scores, chosen, allowed=allowed, seed=seed, key="row")
    if rejected is not None:
        assert allowed[rejected] and scores[rejected] < scores[chosen]
        assert sum(s < scores[rejected] for s in scores) < len(scores) // 2


def test_where_all_agree_or_one_is_alone_nothing_is_rejected():
    assert draw_rejected([0.9] * 6, 0, seed=0, key="x") is None
    assert draw_rejected([0.9], 0, seed=0, key="x") is None


def test_draws_depend_on_seed_and_key_alone():
    assert hashed(0, "a", "b") != hashed(0, "ab") and hashed(0, "a") != hashed(1, "a")
    random.seed(1)
    first = [draw(10, 3, str(i)) for i in range(20)]
    random.seed(2)
    assert first == [draw(10, 3, str(i)) for i in range(20)] and len(set(first)) > 5

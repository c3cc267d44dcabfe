"""The sum over a set without its pairs, whatever the order of sizes and however many sets are taken at a time."""

from __future__ import annotations

import numpy as np
import pytest

from sicog.curation.score import similarity
from sicog.curation.score.similarity import total_similarities


@pytest.mark.parametrize("sizes", [[3] * 9, [1, 2, 1, 3, 2, 1], [5, 0, 2, 0, 5, 1], []], ids=str)
@pytest.mark.parametrize("at_once", [1, 24, 1 << 16])
def test_it_is_the_sum_of_the_cosines(monkeypatch, sizes, at_once):
    monkeypatch.setattr(similarity, "_NUMBERS_AT_ONCE", at_once)
    vectors = np.random.default_rng(1).normal(size=(sum(sizes), 4)).astype(np.float32)
    units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    first, expected = 0, []
    for size in sizes:
        row = units[first : first + size]
        expected += [sum(float(one @ other) for other in row) for one in row]
        first += size
    assert total_similarities(vectors, np.array(sizes, dtype=np.int64)) == pytest.approx(np.array(expected), abs=1e-12)


def test_equal_vectors_tie_to_the_last_bit():
    one, other = np.random.default_rng(2).normal(size=(2, 384)).astype(np.float32)
    for size in range(2, 12):
        totals = total_similarities(np.stack([one] * size + [other]), np.array([size + 1]))
        assert len(set(totals[:size].tolist())) == 1


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_vector_that_has_no_direction_is_named(bad):
    vectors = np.ones((5, 3))
    vectors[3] = bad
    with pytest.raises(ValueError, match="embedding 3 is not finite or has length 0"):
        total_similarities(vectors, np.array([2, 3]))

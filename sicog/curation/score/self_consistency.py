"""Self-consistency of the candidates of a query: scores from embeddings, votes, and choices. Pure functions.

The formula is Minimum Bayes Risk selection: the best candidate of a query is the one most similar to all candidates.
A batch of sets is ragged. embeddings_ND holds the N candidates of all sets one after the other, each of width D;
`set_sizes` is the number of candidates of each set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sicog.curation.score.similarity import total_similarities

DECIMALS = 6  # round scores before any choice: other batch shapes change embeddings in the seventh digit
VOTE_DECIMALS = 9  # round shares of votes too, so that the order of a sum does not matter


class Consistency(NamedTuple):
    """Scores of the N candidates of some sets, both float64 [N] in [-1, 1], rounded to 1e-6.

    score: the mean similarity to all K candidates of the set, itself included; agreement: to the others, nan at K = 1.
    """

    score: NDArray[np.float64]
    agreement: NDArray[np.float64]


def self_consistency(embeddings_ND: NDArray[Any], set_sizes: Sequence[int]) -> Consistency:
    """Return the mean similarity of each candidate to the candidates of its set; sets may be empty.

    score_i = <e_i, mean_j(e_j)> with unit vectors e in float64 and j = i included, the paper's score;
    agreement_i = (K score_i - 1) / (K - 1), the mean over j != i (see `docs/differences.md`).

    Raises `ValueError` when the sizes do not add up, or an embedding is not finite or has length 0.
    """
    sizes_S = np.asarray(set_sizes, dtype=np.int64)
    if sizes_S.sum() != len(embeddings_ND) or (sizes_S < 0).any():
        raise ValueError(
            f"set sizes add up to {sizes_S.sum()}, but there are {len(embeddings_ND)} embeddings. "
            "Give one per candidate"
        )
    sizes_S = sizes_S[sizes_S > 0]  # reduceat does not allow empty sets
    if not len(sizes_S):
        return Consistency(np.zeros(0), np.zeros(0))
    totals_N = total_similarities(embeddings_ND, sizes_S)
    sizes_N = np.repeat(sizes_S, sizes_S)
    others_N = np.where(sizes_N > 1, sizes_N - 1, np.nan)
    means = (totals_N / sizes_N, (totals_N - 1) / others_N)
    return Consistency(*(np.clip(mean_N.round(DECIMALS), -1, 1) + 0.0 for mean_N in means))  # + 0.0: no -0.0 in files


def votes(answers: Sequence[str], weights: Sequence[float] | None = None) -> list[tuple[float, float]]:
    """Return share of the votes and margin of each normalised answer of a set.

    vote(a) = sum of w_j over the j that answer a / sum of all w_j, in (0, 1] when all weights are positive;
    margin(a) = vote(a) - the largest vote of another answer, in [-1, 1].

    weights: w_j, by default 1 each. Weights below 0 count as 0; when none is above 0, all are 1.
    """
    given = [max(0.0, w) for w in weights] if weights is not None else []
    weights = given if sum(given) > 0 else [1.0] * len(answers)
    total = sum(weights)
    by_answer: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        by_answer[answer] = by_answer.get(answer, 0.0) + weight
    shares = {answer: round(weight / total, VOTE_DECIMALS) for answer, weight in by_answer.items()}
    first, second = [*sorted(shares.values(), reverse=True), 0.0, 0.0][:2]
    best = max(shares, key=lambda a: shares[a], default="")
    margins = {a: round(share - (second if a == best else first), VOTE_DECIMALS) for a, share in shares.items()}
    return [(shares[answer], margins[answer]) for answer in answers]


def choose_each(
    ranks: Sequence[NDArray[np.float64]], allowed_N: NDArray[np.bool_], set_sizes: Any
) -> NDArray[np.int64]:
    """Return int64 [S]: the place in its set of the allowed candidate with the highest rank; -1 when none is allowed.

    ranks: one array [N] or more, compared in order; ties go to the lowest place.
    """
    sizes_S = np.asarray(set_sizes, dtype=np.int64)
    chosen_S = np.full(len(sizes_S), -1, dtype=np.int64)
    sets_N = np.repeat(np.arange(len(sizes_S)), sizes_S)
    places_N = np.arange(len(sets_N)) - np.repeat(np.cumsum(sizes_S) - sizes_S, sizes_S)
    rows_M = np.flatnonzero(allowed_N)
    order_M = rows_M[np.lexsort([places_N[rows_M], *(-rank[rows_M] for rank in reversed(ranks)), sets_N[rows_M]])]
    first_M = np.ones(len(order_M), dtype=bool)
    first_M[1:] = sets_N[order_M][1:] != sets_N[order_M][:-1]
    chosen_S[sets_N[order_M[first_M]]] = places_N[order_M[first_M]]
    return chosen_S


def lower_half_places(ranks: Sequence[Any]) -> list[int]:
    """Return the floor(N/2) lowest places, ascending; of equal ranks the last place is the lowest.

    The rejected side of a preference pair is sampled from them, if it ranks strictly below the chosen side. When all
    candidates agree, there is no pair. With embedding scores two candidates always tie, so K = 2 gives no pairs.
    """
    return sorted(range(len(ranks) - 1, -1, -1), key=ranks.__getitem__)[: len(ranks) // 2]


def draw_integer(n: int, seed: int, *key: str) -> int:
    """Return a uniform integer in 0..n-1 that depends only on the seed and the key."""
    if n == 1:
        return 0
    return hash128(seed, *key) % n  # a bias of n / 2^128


def hash128(seed: int, *key: str) -> int:
    """Return 128 bits that depend only on the seed and the key, the same on every machine."""
    text = "\x1f".join([str(seed), *key])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")

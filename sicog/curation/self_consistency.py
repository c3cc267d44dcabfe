"""Self-consistency of the candidates of a query: a pure function of their embeddings, and the choices made by it.

The formula is Minimum Bayes Risk selection: of the candidates of one query, the best is the one most similar to all.
A batch of sets is ragged: embeddings_ND holds the N candidates of all sets one after the other, D wide, and
`set_sizes` says how many belong to each set; sets may differ in size.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sicog.curation.similarity import total_similarities

DECIMALS = 6  # scores are rounded before any choice: batches of another shape move embeddings in the seventh digit


def self_consistency(
    embeddings_ND: NDArray[Any], set_sizes: Sequence[int], *, include_self: bool = True
) -> NDArray[np.float64]:
    """The score of each candidate within its set, float64 [N] in [-1, 1], rounded to 1e-6.

    score_i = <e_i, mean_j(e_j)> with unit vectors e in float64, which is the mean similarity to all candidates of the
    set, itself included (reference-spec 9.2; `docs/differences.md` D-C16). With itself included a fixed cut means less
    agreement the fewer candidates there are; `include_self=False` gives the mean similarity to the others.

    Raises `ValueError` when the sizes do not add up, a set is empty (or has one member and `include_self` is off), or
    an embedding is not finite or has length 0.
    """
    sizes_S = np.asarray(set_sizes, dtype=np.int64)
    if sizes_S.sum() != len(embeddings_ND):
        raise ValueError(f"set sizes add up to {sizes_S.sum()}, but there are {len(embeddings_ND)} embeddings")
    if not len(sizes_S):
        return np.zeros(0)
    if sizes_S.min() < (smallest := 1 if include_self else 2):
        raise ValueError(f"set {int(sizes_S.argmin())} has {sizes_S.min()} candidates, needs at least {smallest}")
    totals_N = total_similarities(embeddings_ND, sizes_S)
    sizes_N = np.repeat(sizes_S, sizes_S)
    scores_N = totals_N / sizes_N if include_self else (totals_N - 1) / (sizes_N - 1)
    return np.clip(scores_N.round(DECIMALS), -1.0, 1.0)


def votes(answers: Sequence[str]) -> list[float]:
    """For each answer the share of answers equal to it, in (0, 1]. The answers are normalised before."""
    counts = Counter(answers)
    return [counts[answer] / len(answers) for answer in answers]


def choose(ranks: Sequence[Any], allowed: Sequence[bool] | None = None) -> int | None:
    """The index of the highest rank (a score, or a tuple compared in order); ties go to the lowest index.

    allowed: which may be chosen, all by default. None when none may.
    """
    eligible = [i for i in range(len(ranks)) if allowed is None or allowed[i]]
    return max(eligible, key=lambda i: (ranks[i], -i), default=None)


def draw_rejected(
    ranks: Sequence[Any], chosen: int, *, allowed: Sequence[bool] | None = None, seed: int, key: str
) -> int | None:
    """A candidate to set against the chosen one, drawn uniformly from the floor(N/2) lowest; None if there is none.

    Only candidates ranked strictly below the chosen one are drawn: where all agree, no pair says anything (D-C15).
    With embedding scores, itself included, two candidates always tie, so K = 2 gives no pairs.

    allowed: which may be drawn (those whose text differs from the chosen one), all by default.
    seed, key: the draw depends on these alone; the key is the row's id.
    """
    ascending = sorted(range(len(ranks)), key=lambda i: (ranks[i], -i))
    lowest = ascending[: len(ranks) // 2]
    pool = [i for i in lowest if ranks[i] < ranks[chosen] and (allowed is None or allowed[i])]
    return pool[draw(len(pool), seed, "rejected", key)] if pool else None


def draw(n: int, seed: int, *key: str) -> int:
    """A uniform integer in 0..n-1 that depends on the seed and the key alone."""
    return hashed(seed, *key) % n  # a bias of n / 2^128


def hashed(seed: int, *key: str) -> int:
    """128 bits that depend on the seed and the key alone, the same on every machine."""
    text = "\x1f".join([str(seed), *key])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")

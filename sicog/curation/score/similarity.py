"""How similar each candidate is to all of its set together: the one sum over pairs that scores are made of.

The sum over j of <e_i, e_j> is <e_i, sum_j e_j>: linear in the candidates, and no pair is ever looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMBERS_AT_ONCE = 1 << 16  # half a megabyte in float64: what is multiplied stays in the processor's cache


def total_similarities(embeddings_ND: NDArray[Any], set_sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The sum of the cosines of each of N embeddings to all of its set, itself included, float64 [N].

    embeddings_ND: those of all sets one after the other, of any length. set_sizes: how many belong to each, [S].
    Raises `ValueError` when an embedding is not finite or has length 0.
    """
    totals_N = np.empty(len(embeddings_ND))
    for rows_SK in _of_one_size(set_sizes, embeddings_ND.shape[-1]):
        x_SKD = _taken(embeddings_ND, rows_SK).astype(np.float64)
        lengths_SK = np.sqrt(np.einsum("skd,skd->sk", x_SKD, x_SKD))
        if (bad_SK := ~(np.isfinite(lengths_SK) & (lengths_SK > 0))).any():
            raise ValueError(f"embedding {int(rows_SK[bad_SK].min())} is not finite or has length 0")
        shares_SK = 1 / lengths_SK
        sums_SD = np.matmul(shares_SK[:, None, :], x_SKD)[:, 0]
        totals_N[rows_SK] = np.einsum("skd,sd->sk", x_SKD, sums_SD) * shares_SK
    return totals_N


def _taken(embeddings_ND: NDArray[Any], rows_SK: NDArray[np.int64]) -> NDArray[Any]:
    """[S, K, D]: a view where the rows lie side by side, as they do when all sets are of one size."""
    first, end = rows_SK[0, 0], rows_SK[-1, -1] + 1
    if end - first == rows_SK.size:
        return embeddings_ND[first:end].reshape(*rows_SK.shape, -1)
    return embeddings_ND[rows_SK]


def _of_one_size(set_sizes: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
    """The rows of sets of equal size, int64 [S, K], some sets at a time."""
    starts_S = np.cumsum(set_sizes) - set_sizes
    for size in np.unique(set_sizes[set_sizes > 0]).tolist():
        starts = starts_S[set_sizes == size]
        step = max(1, _NUMBERS_AT_ONCE // (size * max(1, width)))
        for first in range(0, len(starts), step):
            yield starts[first : first + step, None] + np.arange(size)

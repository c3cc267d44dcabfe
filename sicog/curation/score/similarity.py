"""Similarity of each candidate to the sum of its set, in linear time.

The sum over j of <e_i, e_j> is <e_i, sum_j e_j>, so no pair has to be computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMBERS_AT_ONCE = 1 << 16  # half a megabyte in float64, which stays in the processor's cache


def total_similarities(embeddings_ND: NDArray[Any], set_sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return float64 [N]: the sum of cosines of each embedding to all embeddings of its set, itself included.

    embeddings_ND: all sets one after the other, of any length. set_sizes: number of embeddings of each set, [S].
    Raises `ValueError` when an embedding is not finite or has length 0.
    """
    totals_N = np.empty(len(embeddings_ND))
    for rows_SK in _sets_by_size(set_sizes, embeddings_ND.shape[-1]):
        x_SKD = _gather_rows(embeddings_ND, rows_SK).astype(np.float64)
        lengths_SK = np.sqrt(np.einsum("skd,skd->sk", x_SKD, x_SKD))
        if (bad_SK := ~(np.isfinite(lengths_SK) & (lengths_SK > 0))).any():
            raise ValueError(f"embedding {int(rows_SK[bad_SK].min())} is not finite or has length 0")
        shares_SK = 1 / lengths_SK
        sums_SD = np.matmul(shares_SK[:, None, :], x_SKD)[:, 0]
        totals_N[rows_SK] = np.einsum("skd,sd->sk", x_SKD, sums_SD) * shares_SK
    return totals_N


def _gather_rows(embeddings_ND: NDArray[Any], rows_SK: NDArray[np.int64]) -> NDArray[Any]:
    """Return [S, K, D]; a view when the rows are contiguous, as with sets of one size."""
    first, end = rows_SK[0, 0], rows_SK[-1, -1] + 1
    if end - first == rows_SK.size:
        return embeddings_ND[first:end].reshape(*rows_SK.shape, -1)
    return embeddings_ND[rows_SK]


def _sets_by_size(set_sizes: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of sets of equal size, int64 [S, K], some sets at a time."""
    starts_S = np.cumsum(set_sizes) - set_sizes
    for size in np.unique(set_sizes[set_sizes > 0]).tolist():
        starts = starts_S[set_sizes == size]
        step = max(1, _NUMBERS_AT_ONCE // (size * max(1, width)))
        for first in range(0, len(starts), step):
            yield starts[first : first + step, None] + np.arange(size)

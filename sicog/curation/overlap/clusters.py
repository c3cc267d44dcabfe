"""Cluster rows by pairs and equal keys (union-find); the result does not depend on the order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class Clusters:
    """Union-find over the numbers 0..n-1; the label of a cluster is its lowest member."""

    def __init__(self, n: int) -> None:
        self._low: Numbers = np.arange(n, dtype=np.int64)

    def join(self, ones_P: Numbers, others_P: Numbers) -> None:
        """Merge the clusters of the two sides of each pair."""
        low = self._low
        while True:
            a_P, b_P = low[ones_P], low[others_P]
            apart = a_P != b_P
            if not apart.any():
                return
            ones_P, others_P, a_P, b_P = ones_P[apart], others_P[apart], a_P[apart], b_P[apart]
            np.minimum.at(low, np.maximum(a_P, b_P), np.minimum(a_P, b_P))
            while ((further := low[low]) != low).any():
                low[:] = further

    def join_equal(self, keys_R: NDArray[np.uint64], rows_R: Numbers) -> None:
        """Merge the clusters of rows with equal keys."""
        order = np.argsort(keys_R, kind="stable")
        same = keys_R[order[1:]] == keys_R[order[:-1]]
        self.join(rows_R[order[:-1][same]], rows_R[order[1:][same]])

    def labels(self) -> Numbers:
        """Return int64 [n]: the lowest member of each number's cluster."""
        return self._low.copy()


def groups(labels_R: NDArray[np.generic]) -> Iterator[Numbers]:
    """Yield the positions of each label that occurs more than once, ascending."""
    order = np.argsort(labels_R, kind="stable").astype(np.int64)
    begins = np.flatnonzero(np.append(True, labels_R[order[1:]] != labels_R[order[:-1]])) if len(order) else order
    sizes = np.diff(np.append(begins, len(order)))
    for begin, size in zip(begins[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[begin : begin + size]


def pairs_of_equal(keys_N: NDArray[np.uint64]) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield all pairs of positions with equal keys, in batches."""
    order = np.argsort(keys_N, kind="stable")
    ranked = keys_N[order]
    # `alive` begins with the positions (in order) whose neighbour k places on has the same key, for k = 1, 2 ...
    alive, step = np.arange(len(ranked), dtype=np.int64), 1
    while len(alive):
        alive = alive[alive + step < len(ranked)]
        alive = alive[ranked[alive] == ranked[alive + step]]
        if len(alive):
            yield order[alive], order[alive + step]
        step += 1


def unique_pairs(parts: Iterable[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """Return the distinct pairs of all parts, the lower number first, ascending."""
    columns = [np.stack((np.minimum(a, b), np.maximum(a, b)), axis=1) for a, b in parts]
    if not columns:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    pairs_P2 = np.unique(np.concatenate(columns), axis=0)
    return pairs_P2[:, 0], pairs_P2[:, 1]


def repeated_keys(keys_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the keys that occur more than once, each once, ascending."""
    ranked = np.sort(keys_N)
    again = ranked[1:][ranked[1:] == ranked[:-1]]
    return again[np.append(True, again[1:] != again[:-1])] if len(again) else again


def is_among(keys_N: NDArray[np.uint64], some: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return bool [N]: whether each key is in `some` (ascending). Like `np.isin`, with a third of its memory."""
    if not len(some):
        return np.zeros(len(keys_N), dtype=bool)
    at = np.searchsorted(some, keys_N)
    at[at == len(some)] = 0
    found: NDArray[np.bool_] = some[at] == keys_N
    return found

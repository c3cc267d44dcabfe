"""Find near-duplicate texts with MinHash of their shingles and locality-sensitive hashing.

The share of equal values of two signatures estimates the share of common shingles (Jaccard; Broder 1997). A pair is
compared when one of its bands is equal. It is near when the estimate reaches the threshold.

This is our own code in numpy. datatrove's MinHash runs as separate stages on whole documents, keeps the first of a
cluster, and has neither scores nor images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO

import numpy as np

from sicog.curation.overlap.clusters import Clusters, Numbers, groups, is_among, pairs_of_equal, repeated_keys
from sicog.curation.words import Hashes, combine_hashes, mix_bits, ngram_hashes

SHINGLE = 5  # words
BANDS, ROWS = 20, 6  # a pair of Jaccard 0.8 shares a band with probability 0.998, a pair of 0.5 with 0.27
VALUES = BANDS * ROWS
_MANY = 64  # size of a bucket; in larger buckets texts are compared with one text at a time
_AT_ONCE = 1 << 11  # pairs whose signatures are in memory

_numbers = mix_bits(np.arange(1, 2 * VALUES + 1, dtype=np.uint64))
_FACTORS, _SHIFTS = _numbers[:VALUES] | np.uint64(1), _numbers[VALUES:]


def signatures(texts: Sequence[Hashes]) -> np.ndarray:
    """Return uint32 [N, VALUES] for texts given as hashes of their words.

    A text shorter than a shingle is one shingle; a text without words has the highest values.
    """
    shingles = [ngram_hashes(text, max(1, min(SHINGLE, len(text)))) for text in texts]
    result = np.full((len(texts), VALUES), np.iinfo(np.uint32).max, dtype=np.uint32)
    sizes = np.array([len(one) for one in shingles], dtype=np.int64)
    filled = np.flatnonzero(sizes)
    if len(filled):
        values = np.concatenate([shingles[i] for i in filled])
        starts = np.concatenate(([0], np.cumsum(sizes[filled])[:-1]))
        for k in range(VALUES):
            hashed = (values * _FACTORS[k] + _SHIFTS[k]) >> np.uint64(32)
            result[filled, k] = np.minimum.reduceat(hashed, starts)
    return result


class TextIndex:
    """Signatures of many texts: 4 * VALUES bytes per text in a file, about 40 in memory while clustering."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, texts: Sequence[Hashes]) -> None:
        """Append texts, given as hashes of their words. They are numbered from 0 and should be distinct."""
        self._file.write(signatures(texts).tobytes())
        self._n += len(texts)

    def clusters(self, similarity: float) -> Numbers:
        """Return int64 [N]: the lowest number of each text's cluster. The order of texts does not matter."""
        self._file.flush()
        clusters = Clusters(self._n)
        for band in range(BANDS):
            texts_M, keys_M = self._bucket_members(band)
            _, inverse, counts = np.unique(keys_M, return_inverse=True, return_counts=True)
            size_M = counts[inverse]
            few = np.flatnonzero(size_M <= _MANY)
            for ones, others in pairs_of_equal(keys_M[few]):
                self._join_near(texts_M[few[ones]], texts_M[few[others]], similarity, clusters)
            many = np.flatnonzero(size_M > _MANY)
            for bucket in groups(inverse[many]):
                self._join_many(texts_M[many[bucket]], similarity, clusters)
        return clusters.labels()

    def _bucket_members(self, band: int) -> tuple[Numbers, Hashes]:
        """Return the M texts that share their key of a band with another text, ascending, and their keys."""
        keys_N = np.zeros(self._n, dtype=np.uint64)
        for start in range(0, self._n, _AT_ONCE):
            part = self._row_range(start, min(start + _AT_ONCE, self._n))
            keys_N[start : start + len(part)] = _band_keys(part[:, band * ROWS : (band + 1) * ROWS])
        texts_M = np.flatnonzero(is_among(keys_N, repeated_keys(keys_N)))
        return texts_M, keys_N[texts_M]

    def _join_near(self, ones: Numbers, others: Numbers, similarity: float, clusters: Clusters) -> None:
        known = clusters.labels()
        unknown = known[ones] != known[others]  # skip pairs that another band has joined
        ones, others = ones[unknown], others[unknown]
        for start in range(0, len(ones), _AT_ONCE):
            a, b = ones[start : start + _AT_ONCE], others[start : start + _AT_ONCE]
            near = _are_similar(self._rows(a), self._rows(b), similarity)
            clusters.join(a[near], b[near])

    def _join_many(self, bucket: Numbers, similarity: float, clusters: Clusters) -> None:
        """Join a large bucket: one text after the other, ordered by signature, joins the texts near it."""
        found_MV = self._rows(bucket)
        order = np.lexsort(found_MV.T[::-1])
        left, found_MV = bucket[order], found_MV[order]
        heads, taken = [], []
        while len(left) > 1:
            near = _are_similar(found_MV[:1], found_MV[1:], similarity)
            heads.append(np.full(int(near.sum()), left[0]))
            taken.append(left[1:][near])
            left, found_MV = left[1:][~near], found_MV[1:][~near]
        clusters.join(np.concatenate(heads), np.concatenate(taken))

    def _rows(self, texts: Numbers) -> np.ndarray:
        """Return uint32 [N, VALUES], read one by one."""
        size, descriptor = 4 * VALUES, self._file.fileno()
        read = b"".join(os.pread(descriptor, size, int(text) * size) for text in texts)
        return np.frombuffer(read, dtype=np.uint32).reshape(-1, VALUES)

    def _row_range(self, start: int, stop: int) -> np.ndarray:
        """Return uint32 [stop - start, VALUES], read at once."""
        size = 4 * VALUES
        read = os.pread(self._file.fileno(), (stop - start) * size, start * size)
        return np.frombuffer(read, dtype=np.uint32).reshape(-1, VALUES)


def _band_keys(values_NR: np.ndarray) -> Hashes:
    """Return uint64 [N]: the key of a band; texts with equal keys are compared."""
    keys = values_NR[:, 0].astype(np.uint64)
    for k in range(1, values_NR.shape[1]):
        keys = combine_hashes(keys, values_NR[:, k].astype(np.uint64))
    return keys


def _are_similar(ones_PV: np.ndarray, others_PV: np.ndarray, similarity: float) -> np.ndarray:
    """Return bool [P]: whether the estimated Jaccard similarity of each pair reaches the threshold."""
    equal_P: np.ndarray = (ones_PV == others_PV).sum(axis=1)
    return equal_P >= similarity * VALUES

"""Vectors on disk by the text they stand for: folders of arrays that are written once and never change.

A folder holds digests.npy (S16 [N]: the first 16 bytes of SHA-256 of the text's UTF-8), vectors.npy (float32 [N, D], of
length 1) and cut.npy (bool [N]: whether the encoder read only the text's beginning). A cache is the folders of one
encoder with one set of settings, or the one folder of a user's file; a text is searched in all of them. A user's file
may hold millions of texts: order.npy (int64 [N]: its rows in the order of their digests) finds one without reading all.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sicog.data.rows.cache import build_once

DIGEST = np.dtype("S16")


@dataclass(frozen=True)
class Encoded:
    """Output of an encoder for N texts: vectors float [N, D] of any length; cut bool [N], the truncated texts."""

    vectors: NDArray[Any]
    cut: NDArray[np.bool_]


class Encoder(Protocol):
    """Turns texts into vectors. Pickled without weights and connections, which are opened at first use."""

    @property
    def description(self) -> str:
        """Return a text that identifies the encoder. Do not compare scores of different descriptions."""

    @property
    def key(self) -> str:
        """Return the name of its cache folder: a digest of everything that determines the vectors."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the vectors of the texts, in order."""

    def close(self) -> None:
        """Close connections and files."""


class Embedding(Protocol):
    """Gives scoring the vectors of texts."""

    @property
    def description(self) -> str:
        """Return the description of the encoder."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, float32 [N, D], in the order of the texts."""


def text_digest(text: str) -> bytes:
    """Return the digest of a text, 16 bytes."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:16]


def text_digests(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Return the digests of several texts, S16 [N]."""
    return np.frombuffer(b"".join(map(text_digest, texts)), dtype=DIGEST)


def unit_vectors(vectors_ND: NDArray[Any], name: Callable[[int], str]) -> NDArray[np.float32]:
    """Normalise the vectors to length 1, float32. Raises `ValueError` for one that is not finite or has length 0."""
    wide_ND = np.asarray(vectors_ND, dtype=np.float64)
    lengths_N = np.sqrt(np.einsum("nd,nd->n", wide_ND, wide_ND))
    if (bad_N := ~(np.isfinite(lengths_N) & (lengths_N > 0))).any():
        raise ValueError(f"the vector of {name(int(bad_N.argmax()))} is not finite or has length 0")
    return (wide_ND / lengths_N[:, None]).astype(np.float32)


def shortened_text(text: str) -> str:
    """Return a short form of a text for messages."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


@dataclass(frozen=True)
class VectorCache:
    """All cache folders of one encoder."""

    folder: Path

    def names(self) -> list[str]:
        """Return all complete folders, in a fixed order."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    def digests(self, name: str) -> NDArray[np.bytes_]:
        """Return the digests of a folder's texts, S16 [N], memory-mapped."""
        return _memory_map(self._complete_folder(name) / "digests.npy")

    def cut(self, name: str) -> NDArray[np.bool_]:
        """Return bool [N]: the truncated texts of a folder."""
        return np.load(self._complete_folder(name) / "cut.npy")

    def rows_of(self, name: str, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return int64 [N]: the row of each text in a folder with `order.npy`; -1 for none."""
        digests, order = _index(self._complete_folder(name))
        wanted_N = text_digests(texts)
        rows_N = order[np.minimum(np.searchsorted(digests, wanted_N, sorter=order), len(order) - 1)]
        return np.where(digests[rows_N] == wanted_N, rows_N, -1)

    def vectors(self, name: str) -> NDArray[np.float32]:
        """Return the vectors of a folder, float32 [N, D]. They are mapped again, so that memory does not grow."""
        return _memory_map(self._complete_folder(name) / "vectors.npy")

    def add(self, name: str, texts: Callable[[], Sequence[str]], encoder: Encoder) -> None:
        """Encode the texts into the folder `name` unless it exists; a second process waits for the first."""

        def build(folder: Path) -> None:
            them = texts()
            encoded = encoder.encode(them)
            if len(encoded.vectors) != len(them):
                raise AssertionError(f"{encoder.description}: {len(encoded.vectors)} vectors of {len(them)} texts")
            np.save(folder / "digests.npy", text_digests(them))
            np.save(
                folder / "vectors.npy", unit_vectors(encoded.vectors, lambda i: f"the text {shortened_text(them[i])}")
            )
            np.save(folder / "cut.npy", encoded.cut)

        build_once(self.folder / name, build, "the same vectors")

    def _complete_folder(self, name: str) -> Path:
        if not (path := self.folder / name).is_dir():
            raise ValueError(
                f"the vectors in {path} are missing, but this run needs them. Remove its hidden folder .embedding "
                f"and run again"
            )
        return path


@functools.lru_cache(maxsize=1)
def _index(folder: Path) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    return _memory_map(folder / "digests.npy"), _memory_map(folder / "order.npy")


def _memory_map(path: Path) -> NDArray[Any]:
    mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped


def batches_of_equal(numbers: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield each number that occurs, with its positions."""
    for number in np.unique(numbers):
        yield int(number), np.flatnonzero(numbers == number)

"""Embed every distinct text once before scoring: collect the texts, encode new ones, look up vectors.

    plan/    the distinct texts, and the cache folder of each text's vector
    parts/   the encoding stage: a part is up to `TEXTS_PER_PART` texts that no earlier run has embedded

Both are in `.embedding` of the output folder until scoring is done. The plan fixes the batches, so vectors do not
depend on workers or restarts. The vector of a cached text comes from an earlier run's batches; it may differ in the
seventh digit from a vector of this run.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sicog.console import say
from sicog.curation.vectors.vector_cache import (
    DIGEST,
    Embedding,
    Encoder,
    VectorCache,
    batches_of_equal,
    shortened_text,
    text_digest,
    text_digests,
)
from sicog.records import Record
from sicog.stages.storage import file_lock, read_json, write_json

TEXTS_PER_PART = 2048
_REMEMBERED = 50_000  # number of distinct texts in memory, so that frequent texts are not written again and again


class TextPart(Record):
    """A part of the texts to embed."""

    number: int


class EmbeddedPart(Record):
    """A part with its vectors in the cache: folder name, number of texts, number of truncated texts."""

    folder: str
    texts: int
    cut: int


class _TextCollector:
    """Stand-in for an embedder that collects texts: texts go to a file, their digests to memory."""

    description = ""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.n_asked = 0
        self.digests, self.ends = bytearray(), array("Q")
        self._seen: set[bytes] = set()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return dummy vectors and collect the texts."""
        self.n_asked += len(texts)
        for text in texts:
            digest = text_digest(text)
            if digest in self._seen:
                continue
            if len(self._seen) < _REMEMBERED:
                self._seen.add(digest)
            self.digests += digest
            self._file.write(text.encode(errors="surrogatepass"))
            self.ends.append(self._file.tell())
        return np.ones((len(texts), 1), dtype=np.float32)


@dataclass(frozen=True)
class Plan:
    """The M distinct texts of a run, in arrays of a folder.

    digests.npy: S16 [M], ascending; folders.npy, rows.npy: uint32 [M], where each text's vector is. spans.npy: int64
    [U, 2], begin and end in texts.bin of the texts to embed, part by part.
    """

    folder: Path

    @cached_property
    def _info(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.folder / "plan.json")
        return found

    @property
    def folders(self) -> list[str]:
        """Return the names of all cache folders that this run uses."""
        return list(self._info["folders"])

    @property
    def parts(self) -> list[str]:
        """Return the names of the cache folders that this run creates, in order."""
        return list(self._info["parts"])

    @property
    def n_distinct(self) -> int:
        """Return the number of distinct texts."""
        return int(self._info["distinct"])

    def texts(self, part: int) -> list[str]:
        """Return the texts of a part, in order."""
        size = int(self._info["texts_per_part"])
        spans_N2 = self.array("spans")[part * size : (part + 1) * size].tolist()
        with (self.folder / "texts.bin").open("rb") as file:
            return [_read(file, begin, end) for begin, end in spans_N2]

    def array(self, name: str) -> NDArray[Any]:
        """Return one of the arrays, memory-mapped."""
        mapped: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return mapped


def _read(file: BinaryIO, begin: int, end: int) -> str:
    file.seek(begin)
    return file.read(end - begin).decode(errors="surrogatepass")


def open_plan(folder: Path, ask: Callable[[Embedding], None], cache: VectorCache, what: Path) -> Plan:
    """Return the plan in `folder`; creates it when missing. ask: passes all texts of the run to an embedder.

    what: the output folder of the plan, for messages. Raises `ValueError`.
    """
    plan = Plan(folder)
    with _disk_errors_as_sentences(folder), file_lock(folder.with_name("lock"), what):
        if folder.is_dir():
            return plan
        unfinished = folder.with_name(".plan")  # left over from a killed process
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            with (unfinished / "texts.bin").open("wb") as file:
                ask(notes := _TextCollector(file))
            _write_plan(unfinished, notes, cache)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return plan


@contextmanager
def _disk_errors_as_sentences(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, None):  # on a full disk numpy only reports a short write
            raise ValueError(f"{folder}: the disk is full. Free some space and run again") from error
        raise


def _write_plan(folder: Path, notes: _TextCollector, cache: VectorCache) -> None:
    digests_M, first_M = np.unique(np.frombuffer(notes.digests, dtype=DIGEST), return_index=True)
    folders_M, rows_M = (np.zeros(len(digests_M), dtype=np.uint32) for _ in range(2))
    found_M = np.zeros(len(digests_M), dtype=np.bool_)
    names: list[str] = []
    for name in cache.names() if len(digests_M) else ():
        held_N = cache.digests(name)
        places_N = np.minimum(np.searchsorted(digests_M, held_N), len(digests_M) - 1)
        here_N = np.flatnonzero((digests_M[places_N] == held_N) & ~found_M[places_N])
        if len(here_N):
            places = places_N[here_N]
            found_M[places], folders_M[places], rows_M[places] = True, len(names), here_N
            names.append(name)
    new_U = np.flatnonzero(~found_M)
    new_U = new_U[np.argsort(first_M[new_U])]  # in row order, so that the vectors of a block are adjacent
    starts = range(0, len(new_U), TEXTS_PER_PART)
    parts = [hashlib.sha256(digests_M[new_U[at : at + TEXTS_PER_PART]].tobytes()).hexdigest()[:32] for at in starts]
    folders_M[new_U] = len(names) + np.arange(len(new_U)) // TEXTS_PER_PART
    rows_M[new_U] = np.arange(len(new_U)) % TEXTS_PER_PART
    bounds = np.concatenate(([0], np.frombuffer(notes.ends, dtype=np.uint64).astype(np.int64)))
    spans_U2 = np.stack([bounds[first_M[new_U]], bounds[first_M[new_U] + 1]], axis=1)
    for name, values in (("digests", digests_M), ("folders", folders_M), ("rows", rows_M), ("spans", spans_U2)):
        np.save(folder / f"{name}.npy", values)
    about = {"distinct": len(digests_M), "texts_per_part": TEXTS_PER_PART, "folders": names + parts, "parts": parts}
    write_json(folder / "plan.json", about)
    say(
        f"score: {notes.n_asked} texts, {len(digests_M)} distinct, {len(digests_M) - len(new_U)} in the cache, "
        f"{len(new_U)} to embed in {len(parts)} parts"
    )


@dataclass
class PartsSource:
    """Source of a stage: the parts of a plan."""

    plan: Plan

    def __len__(self) -> int:
        return len(self.plan.parts)

    def read(self, start: int, stop: int) -> Iterator[TextPart]:
        """Yield parts start..stop."""
        for number in range(start, stop):
            yield TextPart(id=f"part-{number:05d}", number=number)


@dataclass
class EmbedParts:
    """Process of the stage: writes the vectors of a part to the cache."""

    plan: Plan
    cache: VectorCache
    encoder: Encoder

    def __call__(self, block: Iterable[TextPart]) -> list[tuple[EmbeddedPart]]:
        return [(self._embed_part(part),) for part in block]

    def _embed_part(self, part: TextPart) -> EmbeddedPart:
        name = self.plan.parts[part.number]
        self.cache.add(name, lambda: self.plan.texts(part.number), self.encoder)
        cut_N = self.cache.cut(name)
        return EmbeddedPart(id=part.id, folder=name, texts=len(cut_N), cut=int(cut_N.sum()))


@dataclass
class StoredVectors:
    """Vectors of a plan with all parts embedded, for scoring. Pickled without the arrays."""

    plan: Plan
    cache: VectorCache
    description: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, float32 [N, D], in the order of the texts, copied from memory-mapped files."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        digests_M, wanted_N = self.plan.array("digests"), text_digests(texts)
        places_N = np.minimum(np.searchsorted(digests_M, wanted_N), len(digests_M) - 1)
        if (unknown_N := digests_M[places_N] != wanted_N).any():
            text = shortened_text(texts[int(unknown_N.argmax())])
            raise ValueError(
                f"the text {text} has no vector: the input has changed since the embedding. Use a new out_dir"
            )
        folders_N, rows_N = self.plan.array("folders")[places_N], self.plan.array("rows")[places_N]
        names = self.plan.folders
        vectors_ND: NDArray[np.float32] | None = None
        for number, where in batches_of_equal(folders_N):
            mapped = self.cache.vectors(names[number])
            if vectors_ND is None:
                vectors_ND = np.empty((len(texts), mapped.shape[1]), dtype=np.float32)
            if mapped.shape[1] != vectors_ND.shape[1]:
                raise ValueError(
                    f"{self.description} gave vectors of {mapped.shape[1]} and of {vectors_ND.shape[1]} numbers. "
                    f"If its model has changed, set another encoder.revision"
                )
            vectors_ND[where] = mapped[rows_N[where]]
        assert vectors_ND is not None
        return vectors_ND

    def n_cut(self) -> int:
        """Return the number of distinct texts that the encoder truncated."""
        folders_M, rows_M = self.plan.array("folders"), self.plan.array("rows")
        cut = (self.cache.cut(name)[rows_M[folders_M == i]] for i, name in enumerate(self.plan.folders))
        return int(sum(part.sum() for part in cut))

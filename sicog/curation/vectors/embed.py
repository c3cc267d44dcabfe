"""Embed every text that scoring asks for once, before it starts: find the texts, encode what is new, look vectors up.

    plan/    which distinct texts there are, and in which folder of the cache each one's vector is or shall be
    parts/   the stage that encodes: a part is up to `TEXTS_PER_PART` texts that no earlier run has embedded

Both lie in `.embedding` of the output folder until scoring is done. The plan fixes which texts share a batch, so
vectors do not depend on the number of workers, nor on restarts. A text that the cache holds from an earlier run was
encoded in that run's batches: its vector may differ in the seventh digit from what this run would have made.
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

from sicog.console import stderr_console
from sicog.curation.vectors.vector_cache import (
    DIGEST,
    Embedding,
    Encoder,
    VectorCache,
    batches_of_equal,
    shortened,
    text_digest,
    text_digests,
)
from sicog.records import Record
from sicog.stages.storage import locked, read_json, write_json

TEXTS_PER_PART = 2048
_REMEMBERED = 50_000  # of the first distinct texts, so that frequent ones are not written down again and again


class TextPart(Record):
    """A part of the texts to embed."""

    number: int


class EmbeddedPart(Record):
    """A part whose vectors are in the cache: the folder's name, how many texts, and how many of them were cut."""

    folder: str
    texts: int
    cut: int


class _Notes:
    """Stands in for an embedder to find out what is asked for: texts go to a file, their digests to memory."""

    description = ""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.n_asked = 0
        self.digests, self.ends = bytearray(), array("Q")
        self._seen: set[bytes] = set()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Any vectors; the texts are noted."""
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
    """The distinct texts of a run, M of them, in arrays of a folder.

    digests.npy: S16 [M], ascending; folders.npy, rows.npy: uint32 [M], where each one's vector is; spans.npy: int64
    [U, 2], begin and end in texts.bin of those that are to be embedded, part by part.
    """

    folder: Path

    @cached_property
    def _about(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.folder / "plan.json")
        return found

    @property
    def folders(self) -> list[str]:
        """The names of all folders of the cache that this run uses."""
        return list(self._about["folders"])

    @property
    def parts(self) -> list[str]:
        """Those that it has to make, in order."""
        return list(self._about["parts"])

    @property
    def n_distinct(self) -> int:
        """How many distinct texts there are."""
        return int(self._about["distinct"])

    def texts(self, part: int) -> list[str]:
        """The texts of a part, in order."""
        size = int(self._about["texts_per_part"])
        spans_N2 = self.array("spans")[part * size : (part + 1) * size].tolist()
        with (self.folder / "texts.bin").open("rb") as file:
            return [_read(file, begin, end) for begin, end in spans_N2]

    def array(self, name: str) -> NDArray[Any]:
        """One of the arrays, memory-mapped."""
        mapped: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return mapped


def _read(file: BinaryIO, begin: int, end: int) -> str:
    file.seek(begin)
    return file.read(end - begin).decode(errors="surrogatepass")


def planned(folder: Path, ask: Callable[[Embedding], None], cache: VectorCache, what: Path) -> Plan:
    """The plan in `folder`, made unless it is there. ask: embeds all texts of the run with what it is given.

    what: the output folder that the plan is for, as messages name it. Raises `ValueError`.
    """
    plan = Plan(folder)
    with _disk_in_words(folder), locked(folder.with_name("lock"), what):
        if folder.is_dir():
            return plan
        unfinished = folder.with_name(".plan")  # of a process that was killed
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            with (unfinished / "texts.bin").open("wb") as file:
                ask(notes := _Notes(file))
            _write_plan(unfinished, notes, cache)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return plan


@contextmanager
def _disk_in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, None):  # numpy says of a full disk only that it wrote less
            raise ValueError(f"{folder}: the disk is full; free some space and run again") from error
        raise


def _write_plan(folder: Path, notes: _Notes, cache: VectorCache) -> None:
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
    new_U = new_U[np.argsort(first_M[new_U])]  # as they come, so that a block of rows finds its vectors side by side
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
    stderr_console().print(
        f"  score: {notes.n_asked} texts, {len(digests_M)} distinct, {len(digests_M) - len(new_U)} in the cache, "
        f"{len(new_U)} to embed in {len(parts)} parts",
        highlight=False,
    )


@dataclass
class PartsSource:
    """The parts of a plan as the rows of a stage."""

    plan: Plan

    def __len__(self) -> int:
        return len(self.plan.parts)

    def read(self, start: int, stop: int) -> Iterator[TextPart]:
        """Parts start..stop."""
        for number in range(start, stop):
            yield TextPart(id=f"part-{number:05d}", number=number)


@dataclass
class EmbedParts:
    """The process of the stage: the vectors of a part go to the cache, and what comes out says so."""

    plan: Plan
    cache: VectorCache
    encoder: Encoder

    def __call__(self, block: Iterable[TextPart]) -> list[tuple[EmbeddedPart]]:
        return [(self._embedded(part),) for part in block]

    def _embedded(self, part: TextPart) -> EmbeddedPart:
        name = self.plan.parts[part.number]
        self.cache.add(name, lambda: self.plan.texts(part.number), self.encoder)
        cut_N = self.cache.cut(name)
        return EmbeddedPart(id=part.id, folder=name, texts=len(cut_N), cut=int(cut_N.sum()))


@dataclass
class StoredVectors:
    """What scoring asks for vectors: those of a plan whose parts are all embedded. Pickled without the arrays."""

    plan: Plan
    cache: VectorCache
    description: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 [N, D], in the order of the texts, memory-mapped until they are copied here."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        digests_M, wanted_N = self.plan.array("digests"), text_digests(texts)
        places_N = np.minimum(np.searchsorted(digests_M, wanted_N), len(digests_M) - 1)
        if (unknown_N := digests_M[places_N] != wanted_N).any():
            text = shortened(texts[int(unknown_N.argmax())])
            raise ValueError(f"the text {text} was not there when texts were embedded; has the input changed since?")
        folders_N, rows_N = self.plan.array("folders")[places_N], self.plan.array("rows")[places_N]
        names = self.plan.folders
        vectors_ND: NDArray[np.float32] | None = None
        for number, where in batches_of_equal(folders_N):
            mapped = self.cache.vectors(names[number])
            if vectors_ND is None:
                vectors_ND = np.empty((len(texts), mapped.shape[1]), dtype=np.float32)
            if mapped.shape[1] != vectors_ND.shape[1]:
                raise ValueError(
                    f"{self.description} gave vectors of {mapped.shape[1]} and of {vectors_ND.shape[1]} numbers; "
                    f"if its model has changed, name another encoder.revision"
                )
            vectors_ND[where] = mapped[rows_N[where]]
        assert vectors_ND is not None
        return vectors_ND

    def n_cut(self) -> int:
        """How many of the distinct texts the encoder has cut."""
        folders_M, rows_M = self.plan.array("folders"), self.plan.array("rows")
        cut = (self.cache.cut(name)[rows_M[folders_M == i]] for i, name in enumerate(self.plan.folders))
        return int(sum(part.sum() for part in cut))

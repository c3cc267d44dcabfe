"""Measure the lengths of all rows of a table in parallel, cache them, and list unusable rows.

The cache key of a measurement: the table, the requested rows, the processor, slicing, max_length, the image check, and
the image folder (its path; size and time of its tars). Image files are not checked again, except those of rows that
were dropped for an image. If one of them has changed, all rows are measured again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import orjson

from sicog.data.image_folder import ImageFolder, image_references, named_images
from sicog.data.images import ImageProblem
from sicog.data.rows.cache import build_once
from sicog.data.rows.sources import PlacedRow
from sicog.data.rows.table import RowTable
from sicog.data.rows.tar_files import Packed
from sicog.model.image_plan import ImagePlan
from sicog.model.lengths import RowLengths
from sicog.progress import quick_bar
from sicog.records import Dropped, Turn
from sicog.stages.provenance import digest_bytes, digest_value
from sicog.stages.storage import dump_record, read_json

if TYPE_CHECKING:
    from sicog.model.image_processing import SicogImageProcessor
    from sicog.model.processing import SicogProcessor

STEP = "train"
FORMAT = 1
IGNORED = -100
Size = tuple[int, int]
_LENGTHS, _DROPPED, _PROBLEMS = "lengths.npy", "dropped.jsonl", "problems.json"
# Rows that a process measures at once, and the number of rows from which extra processes are worthwhile.
_CHUNK, _PARALLEL_FROM = 128, 512
_SIZES_KEPT = 1 << 16


class Measured(NamedTuple):
    """The lengths of one row, as in `RowLengths`."""

    tokens: int
    supervised: int
    views: int
    patches: int


class Measure(Protocol):
    """A way to measure rows. It is pickled to other processes."""

    def identity(self) -> object:
        """The values that decide the result, ready for JSON."""

    def __call__(self, turns: Sequence[Turn], sizes: Sequence[Size]) -> Measured:
        """Measure a row from its images' (width, height). Raises `ValueError` if it is unusable."""


@dataclass(frozen=True)
class TokenMeasure:
    """Measure rows with the processor's encoding."""

    processor: SicogProcessor
    slicing: bool

    def identity(self) -> object:
        """The tokenizer and all settings that lengths depend on."""
        names = ("image_token_id", "row_separator_id", "slice_separator_id", "query_grid", "turn_format")
        tokenizer = digest_value(self.processor.tokenizer.backend_tokenizer.to_str())
        image = self.processor.image_processor.to_json_string()
        return [tokenizer, image, self.slicing, [getattr(self.processor, name) for name in names]]

    def __call__(self, turns: Sequence[Turn], sizes: Sequence[Size]) -> Measured:
        """The row's tokens, those that are targets, and its views."""
        ids, labels = self.processor.encode_text(turns, sizes, slicing=self.slicing)
        # The first position is never a target, because no position before it could predict it.
        supervised = sum(label != IGNORED for label in labels[1:])
        return Measured(len(ids), supervised, *_views(self.processor.image_processor, sizes, self.slicing))


@dataclass(frozen=True)
class WordMeasure:
    """Count words instead of tokens if there is no tokenizer."""

    images: ImagePlan
    slicing: bool

    def identity(self) -> object:
        """The settings that views depend on."""
        return ["words", asdict(self.images), self.slicing]

    def __call__(self, turns: Sequence[Turn], sizes: Sequence[Size]) -> Measured:
        """The row's words, those of the assistant, and its views."""
        words = [(len(turn.text.split()), turn.role == "assistant") for turn in turns]
        answered = sum(n for n, is_answer in words if is_answer)
        return Measured(sum(n for n, _ in words), answered, *_views(self.images, sizes, self.slicing))


def _views(images: ImagePlan | SicogImageProcessor, sizes: Sequence[Size], slicing: bool) -> tuple[int, int]:
    views = [view for w, h in sizes for view in images.plan(w, h, slicing=slicing).views(images.patch_size)]
    return len(views), sum(rows * columns for rows, columns in views)


@dataclass(frozen=True)
class Measurement:
    """`lengths` of the requested rows in order; all 0 for a dropped row."""

    folder: Path
    lengths: RowLengths

    @property
    def usable(self) -> np.ndarray:
        """bool [N]."""
        return self.lengths.tokens > 0

    def dropped_rows(self) -> Iterator[Dropped]:
        """The unusable rows, in order."""
        with (self.folder / _DROPPED).open("rb") as file:
            yield from map(Dropped.model_validate_json, file)


def measure_table(
    table: RowTable, rows: np.ndarray, measure: Measure, images: ImageFolder, *, max_length: int, cache: Path
) -> Measurement:
    """Measure some rows of a table, each once.

    Reasons of drops: `image_refused`, `image_missing`, `image_broken`, `unusable` (the processor refuses it),
    `too_long`, `nothing_supervised`.
    """
    job = _Job(table, rows, measure, images, max_length)
    key = digest_value(
        [FORMAT, table.key, digest_bytes(rows.astype(np.int64).tobytes()), measure.identity()]
        + [max_length, images.check, images.identity()]
    )
    while True:
        what = f"the lengths of {table.source.path}"
        folder = build_once(cache / "lengths" / key, lambda folder: _measure_all(job, folder), what)
        problems = read_json(folder / _PROBLEMS)
        states = {name: images.state(name) for name in problems}
        if states == problems:
            return Measurement(folder, RowLengths.of(np.load(folder / _LENGTHS)))
        key = digest_value([key, states])


@dataclass(frozen=True)
class _Job:
    table: RowTable
    rows: np.ndarray
    measure: Measure
    images: ImageFolder
    max_length: int


@dataclass(frozen=True)
class _Chunk:
    """Some rows in order: int32 [rows, 4], the drops, and the states of the images that rows were dropped for."""

    lengths: np.ndarray
    dropped: list[Dropped]
    problems: dict[str, list[int] | str]


def _measure_all(job: _Job, folder: Path) -> None:
    lengths = np.zeros((len(job.rows), 4), dtype=np.int32)
    problems: dict[str, object] = {}
    done = 0
    with (folder / _DROPPED).open("wb") as drops:
        for chunk in _chunks(job):
            lengths[done : done + len(chunk.lengths)] = chunk.lengths
            done += len(chunk.lengths)
            problems |= chunk.problems
            for drop in chunk.dropped:
                drops.write(dump_record(drop))
    assert done == len(job.rows)
    np.save(folder / _LENGTHS, lengths)
    (folder / _PROBLEMS).write_bytes(orjson.dumps(problems))


def _chunks(job: _Job) -> Iterator[_Chunk]:
    """All chunks in order, measured in as many processes as there are cores."""
    starts = range(0, len(job.rows), _CHUNK)
    n_processes = min(len(starts), len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    with quick_bar("measuring rows", len(job.rows)) as bar:
        if n_processes == 1 or len(job.rows) < _PARALLEL_FROM:
            worker = _Worker(job)
            for start in starts:
                yield worker(start)
                bar.add(min(_CHUNK, len(job.rows) - start))
            return
        # A fork starts at once; a new interpreter would import torch first, which the children never use.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        with ProcessPoolExecutor(n_processes, mp_context=context, initializer=_begin, initargs=(job,)) as pool:
            try:
                for start, chunk in zip(starts, pool.map(_measure_chunk, starts), strict=True):
                    yield chunk
                    bar.add(min(_CHUNK, len(job.rows) - start))
            except BrokenProcessPool as error:
                raise ValueError("a process that measured rows was killed. Is the machine out of memory?") from error


class _Worker:
    """Measure rows of one job, and cache the sizes of images that several rows share."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self._size = lru_cache(_SIZES_KEPT)(self._size_of)

    def __call__(self, start: int) -> _Chunk:
        rows = self.job.rows[start : start + _CHUNK]
        chunk = _Chunk(np.zeros((len(rows), 4), dtype=np.int32), [], {})
        for k, index in enumerate(rows):
            row = self.job.table.row(int(index))
            result = self._measure(row)
            if isinstance(result, Measured):
                chunk.lengths[k] = result
                continue
            chunk.dropped.append(result)
            if result.reason.startswith("image_"):
                chunk.problems.update((name, self.job.images.state(name)) for name in named_images(row))
        return chunk

    def _measure(self, row: PlacedRow) -> Measured | Dropped:
        example, job = row[0], self.job

        def drop(reason: str, detail: str) -> Dropped:
            return Dropped(id=example.id, step=STEP, reason=reason, detail=detail)

        sizes = []
        for size in map(self._size, image_references(job.table, row)):
            if isinstance(size, ImageProblem):
                return drop(size.reason, str(size))
            sizes.append(size)
        try:
            measured = job.measure(example.turns, sizes)
        except ValueError as error:
            return drop("unusable", str(error))
        if measured.tokens > job.max_length:
            return drop("too_long", f"{measured.tokens} tokens > {job.max_length}")
        return measured if measured.supervised else drop("nothing_supervised", "no assistant text")

    def _size_of(self, image: str | Packed) -> Size | ImageProblem:
        try:
            return self.job.images.measure(self.job.images.find(image) if isinstance(image, str) else image)
        except ImageProblem as problem:
            return problem


_worker: _Worker | None = None


def _begin(job: _Job) -> None:
    global _worker
    _worker = _Worker(job)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End when the parent is killed; otherwise the children would wait for work forever."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _measure_chunk(start: int) -> _Chunk:
    assert _worker is not None
    return _worker(start)

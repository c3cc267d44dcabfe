"""Read the benchmarks that training data must not overlap with: hashes of their images, n-grams of their texts.

A benchmark is one of
  - a VLMEvalKit TSV: index, image (base64, or the index of the row with the image), question, hint, A, B, ..., answer
  - a folder of images
  - questions as JSONL (`question`, optional `hint`, `answer`, `A` ...), or as plain text, one per line.
It is read once and cached.
"""

from __future__ import annotations

import base64
import codecs
import csv
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from sicog.chains import COD_QUESTIONS
from sicog.config import Config
from sicog.config.paths import as_utf8
from sicog.curation.overlap.clusters import Numbers
from sicog.curation.overlap.image_hash import WORDS, image_hash
from sicog.curation.words import Hashes, digest64, ngram_hashes, word_hashes, words
from sicog.data.rows.file_kinds import IMAGE_SUFFIXES
from sicog.data.rows.table import digest_source_file
from sicog.formats.json_rows import loads
from sicog.formats.row_keys import first_value
from sicog.model.image_files import load_image
from sicog.records import Dropped, Record
from sicog.stages.config import StageOptions
from sicog.stages.provenance import digest_value
from sicog.stages.runner import Stage, run_stage
from sicog.stages.storage import is_finished, open_table, read_records
from sicog.tasks import TASKS, bare_question

FORMAT = 2  # increase when rows are read differently; cached benchmarks are then read again
_PICTURE = re.compile(r"[A-Za-z0-9+/]{65,}={0,2}")  # VLMEvalKit: a shorter cell is the index of another row
_SUFFIXES = (".tsv", ".jsonl", ".txt")
_TEXTS = re.compile(r"question|hint|answer|[A-Z]")
# An n-gram in more benchmark texts than this is a common phrase ("please answer yes or no").
_FORM = 5
log = logging.getLogger(__name__)


class Benchmark(Config):
    """One benchmark."""

    name: str = Field(min_length=1)
    """Name of the benchmark in drop reasons."""
    path: Path
    """File of the benchmark, or folder of its images."""


class Entry(Record):
    """Raw row of a benchmark; its id is the row's index. pictures: base64; file: path of an image."""

    pictures: tuple[str, ...] = ()
    file: Path | None = None
    has_image: bool = False
    texts: dict[str, str] = {}


class BenchmarkRow(Record):
    """The compared parts of a benchmark row. hashes: of its images, in hex; has_image: true even without a hash."""

    hashes: tuple[str, ...] = ()
    has_image: bool = False
    texts: dict[str, str] = {}


class _Stage(Config):
    volatile: ClassVar[frozenset[str]] = frozenset()
    path: Path
    format: int = FORMAT


def read_benchmark(benchmark: Benchmark, cache: Path, workers: int) -> Path:
    """Return the dataset of `BenchmarkRow`s of a benchmark; creates it when missing. Raises `ValueError`."""
    path = benchmark.path
    if path.is_dir():
        files = _images_below(path)
        if not files:
            raise ValueError(f"benchmark {benchmark.name}: {path} contains no image files. Give a folder of images")
        stats = [(file, file.stat()) for file in files]
        content: Any = [[as_utf8(str(file.relative_to(path))), stat.st_size, stat.st_mtime_ns] for file, stat in stats]
    elif not path.is_file() or path.suffix.lower() not in _SUFFIXES:
        known = "a .tsv of VLMEvalKit, a folder of images, a .jsonl or a .txt of questions"
        raise ValueError(f"benchmark {benchmark.name}: {path} is missing, or not {known}. Correct its path")
    else:
        content = [path.suffix, digest_source_file(path, cache)]
    folder = cache / "benchmarks" / digest_value([FORMAT, content])
    if not is_finished(folder):
        run_stage(
            Stage(
                step="benchmark",
                out_dir=folder,
                source=_Entries(path),
                process=_hash_rows,
                inputs={},
            ),
            _Stage(path=path),
            StageOptions(workers=workers, max_dropped_share=None),
        )
    return folder


@dataclass
class _Entries:
    """Streamed rows of a benchmark; a TSV with images is never fully in memory."""

    path: Path
    _cursor: tuple[int, Iterator[Entry | Dropped]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_cursor": None}

    def read(self, start: int, stop: int) -> Iterator[Entry | Dropped]:
        """Yield rows start..stop; a read that starts at the end of the previous one continues there."""
        cursor, self._cursor = self._cursor, None
        at, rows = cursor if cursor and cursor[0] <= start else (0, self._all())
        yield from islice(rows, start - at, stop - at)
        self._cursor = (stop, rows)

    def _all(self) -> Iterator[Entry | Dropped]:
        if self.path.is_dir():
            for file in _images_below(self.path):
                yield Entry(id=as_utf8(str(file.relative_to(self.path))), file=file, has_image=True)
        elif self.path.suffix.lower() == ".tsv":
            yield from self._tsv()
        else:
            with self.path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield self._line(line, number)

    def _tsv(self) -> Iterator[Entry | Dropped]:
        with open_table(self.path) as rows:
            if "index" not in (rows.fieldnames or ()):
                raise ValueError(f"{self.path}: the column `index` is missing. Give a TSV in VLMEvalKit's format")
            try:
                for row in rows:
                    yield _entry(row, str(row["index"]))
            except csv.Error as error:
                raise ValueError(
                    f"{self.path}:{rows.line_num}: the TSV is unreadable ({error}). Repair or download the file again"
                ) from error

    def _line(self, line: bytes, number: int) -> Entry | Dropped:
        try:
            line = line.removeprefix(codecs.BOM_UTF8)  # as editors of Windows begin a file
            if self.path.suffix.lower() == ".txt":
                return Entry(id=str(number), texts={"question": line.decode().strip()})
            row = loads(line)
            named = first_value(row, "index", "id", "question_id")
            return _entry(row, str(number if named is None else named))
        except (ValueError, TypeError, AttributeError) as error:
            return Dropped(id=str(number), step="benchmark", reason="malformed_row", detail=f"line {number}: {error}")


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower()[1:] in IMAGE_SUFFIXES and path.is_file())


def _entry(row: Mapping[str, Any], row_id: str) -> Entry:
    cell = row.get("image") or ""
    cell = " ".join(cell) if isinstance(cell, list) else str(cell)
    pictures = tuple(_PICTURE.findall(cell)) if len(cell) > 64 else ()
    texts = {key: value for key, value in row.items() if key and _TEXTS.fullmatch(key) and isinstance(value, str)}
    return Entry(id=row_id, pictures=pictures, has_image=bool(cell), texts=texts)


def _hash_rows(block: Sequence[Entry]) -> Iterator[tuple[BenchmarkRow]]:
    for entry in block:
        sources: list[Path | io.BytesIO] = [entry.file] if entry.file else []
        sources += [io.BytesIO(base64.b64decode(text + "=" * (-len(text) % 4))) for text in entry.pictures]
        hashes = tuple(found for source in sources if (found := _hash_of(source, entry.id)))
        yield (BenchmarkRow(id=entry.id, hashes=hashes, has_image=entry.has_image, texts=entry.texts),)


def _hash_of(source: Path | io.BytesIO, row_id: str) -> str | None:
    try:
        found = image_hash(load_image(source))
    except ValueError as error:
        log.warning("row %s of a benchmark: its unreadable image is not compared: %s", row_id, as_utf8(str(error)))
        return None
    return None if found is None else found.astype("<u8").tobytes().hex()


@dataclass(frozen=True)
class BenchmarkImages:
    """Hashes of all benchmark images, uint64 [B, WORDS], and the row of each."""

    hashes: Hashes
    rows: tuple[str, ...]


class BenchmarkTexts:
    """Finds n-grams of benchmarks in texts.

    A text overlaps when it shares an n-gram with a question, hint, option or answer. A row without an image also
    overlaps when one of its turns equals a shorter question of a benchmark row without an image. With an image, a short
    question such as "What color is the car?" is no evidence; there the images are compared.
    """

    def __init__(self, rows: Sequence[tuple[str, BenchmarkRow]], n: int) -> None:
        self._n = n
        self._names = tuple(name for name, _ in rows)
        self._short: dict[int, int] = {}
        keys, owners, seen = [], [], set()
        for number, (_, row) in enumerate(rows):
            for key, text in row.texts.items():
                found = words(bare_question(text))
                if key == "question" and len(found) < n and not row.has_image and found:
                    self._short.setdefault(digest64(" ".join(found)), number)
                if len(found) >= n and (digest := digest64(" ".join(found))) not in seen:
                    seen.add(digest)
                    keys.append(np.unique(ngram_hashes(word_hashes(found), n)))
                    owners.append(np.full(len(keys[-1]), number, dtype=np.int64))
        self._keys, self._owners = _drop_common_phrases(keys, owners, n)

    def find(self, rows: Sequence[tuple[bool, Sequence[Sequence[str]]]]) -> dict[int, str]:
        """Return the overlapping rows by position, with a detail. A row is (it has no image, words of its turns)."""
        found: dict[int, str] = {}
        hashes, owners = [], []
        for position, (is_text, turns) in enumerate(rows):
            for turn in turns:
                if is_text and len(turn) < self._n:
                    number = self._short.get(digest64(" ".join(turn)), -1)
                    if number >= 0:
                        found.setdefault(position, f"{self._names[number]}: the same question, without an image")
                if len(turn) >= self._n and len(self._keys):
                    hashes.append(ngram_hashes(word_hashes(turn), self._n))
                    owners.append((position, turn))
        if not hashes:
            return found
        sizes = [len(one) for one in hashes]
        every = np.concatenate(hashes)
        at = np.minimum(np.searchsorted(self._keys, every), len(self._keys) - 1)
        starts = np.concatenate(([0], np.cumsum(sizes)))
        for hit in np.flatnonzero(self._keys[at] == every):
            which = int(np.searchsorted(starts, hit, side="right")) - 1
            position, turn = owners[which]
            begin = int(hit - starts[which])
            phrase = " ".join(turn[begin : begin + self._n])
            found.setdefault(position, f"{self._names[self._owners[at[hit]]]}: shares {phrase!r}")
        return found


def _drop_common_phrases(keys: list[Hashes], owners: list[Numbers], n: int) -> tuple[Hashes, Numbers]:
    """Return all n-grams, ascending, with the first row of each; without common phrases and our own prompts."""
    if not keys:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    unique, first, counts = np.unique(np.concatenate(keys), return_index=True, return_counts=True)
    prompts = [style.template for task in TASKS.values() for style in task.styles.values()] + list(COD_QUESTIONS)
    ours = np.concatenate([ngram_hashes(word_hashes(words(prompt)), n) for prompt in prompts])
    kept = (counts <= _FORM) & ~np.isin(unique, ours)
    return unique[kept], np.concatenate(owners)[first][kept]


def load_benchmarks(
    benchmarks: Sequence[Benchmark], n: int, cache: Path, workers: int
) -> tuple[BenchmarkImages, BenchmarkTexts]:
    """Read all benchmarks; texts and hashes stay in memory, images do not."""
    rows: list[tuple[str, BenchmarkRow]] = []
    hashes, names = [], []
    for benchmark in benchmarks:
        for row in read_records(read_benchmark(benchmark, cache, workers), BenchmarkRow):
            name = f"{benchmark.name} {row.id}"
            rows.append((name, row))
            hashes += [np.frombuffer(bytes.fromhex(one), dtype="<u8").astype(np.uint64) for one in row.hashes]
            names += [name] * len(row.hashes)
    stacked = np.stack(hashes) if hashes else np.zeros((0, WORDS), dtype=np.uint64)
    return BenchmarkImages(stacked, tuple(names)), BenchmarkTexts(rows, n)

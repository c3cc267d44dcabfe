"""Scores of a folder as columns without texts, so that verdicts and sweeps over a million rows are fast.

`scored/columns/scores.parquet` has one line per row, with lists of its candidates' scores. It is made once from the
shards, with every row validated, and made again when the shards change.

R rows, N candidates of all of them one after the other.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sicog.records import Dropped, ScoredSet
from sicog.stages.provenance import digest_path
from sicog.stages.reader import FolderSource
from sicog.stages.storage import atomic_write, file_lock, lines_of

ROWS = 2048  # of a row group
EXCLUDED = ("cut", "unparsed", "empty", "no_claims", "window")
_OF = b"sicog.shards"
_WORD = pa.dictionary(pa.int32(), pa.string())
_MARKS = ("score", "agreement", "vote", "margin")
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", _WORD),
        ("encoder", _WORD),
        ("unreadable", pa.string()),  # error of an unreadable row, which then has no candidates
        ("style", pa.list_(_WORD)),
        ("index", pa.list_(pa.int32())),
        *((name, pa.list_(pa.float64())) for name in _MARKS),
        ("excluded", pa.list_(_WORD)),
    ]
)


@dataclass(frozen=True)
class Words:
    """A column with few distinct texts: the texts, and the index of each entry's text, int32, -1 for none."""

    names: tuple[str, ...]
    codes: NDArray[np.int32]

    def code(self, name: str) -> int:
        """Return the index of a text, -2 when it does not occur."""
        return self.names.index(name) if name in self.names else -2


@dataclass(frozen=True)
class Columns:
    """R rows: ids, tasks, encoders, error of unreadable rows (else None), number of candidates of each [R].

    style, excluded: of the N candidates; excluded candidates cannot be chosen. score, agreement, vote, margin: float64
    [N], nan for None.
    """

    ids: list[str]
    task: Words
    encoder: Words
    unreadable: list[str | None]
    sizes: NDArray[np.int64]
    style: Words
    excluded: Words
    score: NDArray[np.float64]
    agreement: NDArray[np.float64]
    vote: NDArray[np.float64]
    margin: NDArray[np.float64]

    def per_row(self, values_N: NDArray[Any]) -> NDArray[np.int64]:
        """Return int64 [R]: the sum of the candidates' values of each row."""
        sums = np.concatenate(([0], np.cumsum(values_N, dtype=np.int64)))
        ends = np.cumsum(self.sizes)
        return sums[ends] - sums[ends - self.sizes]

    def places(self, flags_N: NDArray[np.bool_]) -> list[list[int]]:
        """For each row, the places of its candidates that have the flag."""
        ends = np.cumsum(self.sizes)
        return [np.flatnonzero(flags_N[end - size : end]).tolist() for end, size in zip(ends, self.sizes, strict=True)]


def columns_in_memory(rows: Iterable[ScoredSet | Dropped]) -> Columns:
    """The columns of some rows that were read already; nothing is written."""
    return _columns(_table(rows))


def columns_of(folder: Path) -> Path:
    """Return the columns file of a scored folder. Creates it when it is missing or does not match the shards."""
    path, shards = folder / "columns" / "scores.parquet", f"{digest_path(folder)} by {ROWS}".encode()
    if not _matches_shards(path, shards):
        with file_lock(path.with_name(".lock"), path):
            _write(folder, path, shards)
    return path


def _matches_shards(path: Path, shards: bytes) -> bool:
    return path.is_file() and (pq.read_schema(path).metadata or {}).get(_OF) == shards


def _write(folder: Path, path: Path, shards: bytes) -> None:
    source = FolderSource(folder, ScoredSet, step="score")
    rows = _check_any_readable(source.read(0, len(source)), folder)
    with atomic_write(path) as file, pq.ParquetWriter(file, _SCHEMA.with_metadata({_OF: shards})) as writer:
        while len(table := _table(islice(rows, ROWS))):
            writer.write_table(table, row_group_size=ROWS)
        if not len(source):
            writer.write_table(table)


def _check_any_readable(rows: Iterator[ScoredSet | Dropped], folder: Path) -> Iterator[ScoredSet | Dropped]:
    """Yield the rows. Raises `ValueError` when none of them is a scored set."""
    first, found = None, False
    for row in rows:
        first, found = first or row, found or isinstance(row, ScoredSet)
        yield row
    if isinstance(first, Dropped) and not found:
        raise ValueError(f"{folder} contains no scored sets ({first.id} is {first.detail}). Score its candidates first")


def _table(rows: Iterable[ScoredSet | Dropped]) -> pa.Table:
    """Return the columns of these rows; one row at a time is in memory."""
    ids: list[str] = []
    unreadable: list[str | None] = []
    task, encoder, style, excluded = _Encoding(), _Encoding(), _Encoding(), _Encoding()
    ends, index, marks = array("i", [0]), array("i"), {name: array("d") for name in _MARKS}
    for row in rows:
        ids.append(row.id)
        unreadable.append(row.detail if isinstance(row, Dropped) else None)
        task.append(row.query.task if isinstance(row, ScoredSet) else "")
        encoder.append(row.encoder if isinstance(row, ScoredSet) else "")
        for scored in row.candidates if isinstance(row, ScoredSet) else ():
            style.append(scored.candidate.style)
            index.append(scored.candidate.index)
            excluded.append(scored.excluded)
            for name, values in marks.items():
                values.append(np.nan if (mark := getattr(scored, name)) is None else mark)
        ends.append(len(index))
    flat = {"style": style.array(), "index": _numbers(index, pa.int32()), "excluded": excluded.array()}
    flat |= {name: _numbers(values, pa.float64(), ~np.isnan(values)) for name, values in marks.items()}
    columns = {"id": _texts(ids), "task": task.array(), "encoder": encoder.array(), "unreadable": _texts(unreadable)}
    columns |= {n: pa.ListArray.from_arrays(_numbers(ends, pa.int32()), values) for n, values in flat.items()}
    return pa.table([columns[name] for name in _SCHEMA.names], schema=_SCHEMA)


class _Encoding:
    """Builder of a column with few distinct texts."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.codes = array("i")

    def append(self, text: str | None) -> None:
        """Add an entry, None for null."""
        self.codes.append(-1 if text is None else self.numbers.setdefault(text, len(self.numbers)))

    def array(self) -> pa.Array:
        """Return the column."""
        codes = _numbers(self.codes, pa.int32(), np.asarray(self.codes) >= 0)
        return pa.DictionaryArray.from_arrays(codes, _texts(list(self.numbers)))


# Built from buffers, and read back by `_filled`: pyarrow's own functions import pandas or
# `pyarrow.compute`, about 50 and 10 MiB.
def _numbers(values: array[Any], kind: pa.DataType, given: NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [_bits(given), pa.py_buffer(values)])


def _texts(values: Sequence[str | None]) -> pa.Array:
    encoded = [(value or "").encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64).astype(np.int32)
    given = np.array([value is not None for value in values], dtype=bool)
    return pa.Array.from_buffers(
        pa.string(), len(values), [_bits(given), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    )


def _bits(given: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if given is None or given.all() else pa.py_buffer(np.packbits(given, bitorder="little"))


def count_rows(path: Path) -> int:
    """Return the number of rows of a columns file."""
    return int(pq.read_metadata(path).num_rows)


def read_columns(path: Path, start: int, stop: int) -> Columns:
    """Return rows start..stop."""
    first = start // ROWS
    changed = path.stat().st_mtime_ns
    groups = [_group(path, changed, g) for g in range(first, max(first + 1, -(-stop // ROWS)))]
    return _columns(pa.concat_tables(groups).slice(start - first * ROWS, stop - start))


def all_columns(path: Path) -> Iterator[Columns]:
    """Yield all rows, some thousand at a time."""
    n_rows = count_rows(path)
    for start in range(0, n_rows, ROWS):
        yield read_columns(path, start, min(start + ROWS, n_rows))


@lru_cache(maxsize=2)
def _group(path: Path, changed: int, number: int) -> pa.Table:
    return pq.ParquetFile(path).read_row_group(number)


def _columns(table: pa.Table) -> Columns:
    table = table.combine_chunks()
    arrays = {f.name: table[f.name].chunk(0) if len(table) else pa.array([], f.type) for f in table.schema}
    return Columns(
        ids=arrays["id"].to_pylist(),
        task=_words(arrays["task"]),
        encoder=_words(arrays["encoder"]),
        unreadable=arrays["unreadable"].to_pylist(),
        sizes=np.diff(_fill_nulls(arrays["style"].offsets, np.int32, 0)).astype(np.int64),
        style=_words(_flatten(arrays["style"])),
        excluded=_words(_flatten(arrays["excluded"])),
        **{name: _fill_nulls(_flatten(arrays[name]), np.float64, np.nan) for name in _MARKS},
    )


def _flatten(array: pa.ListArray) -> pa.Array:
    ends = _fill_nulls(array.offsets, np.int32, 0)
    return array.values.slice(int(ends[0]), int(ends[-1] - ends[0]))


def _words(array: pa.DictionaryArray) -> Words:
    return Words(tuple(array.dictionary.to_pylist()), _fill_nulls(array.indices, np.int32, -1))


def _fill_nulls(array: pa.Array, kind: type[Any], missing: float) -> NDArray[Any]:
    """Return the values, with `missing` for null."""
    if not len(array):
        return np.zeros(0, dtype=kind)
    validity, data = array.buffers()
    here = slice(array.offset, array.offset + len(array))
    values = np.frombuffer(data, dtype=kind)[here]
    if validity is None:
        return values
    return np.where(np.unpackbits(np.frombuffer(validity, dtype=np.uint8), bitorder="little")[here], values, missing)


class RawRow(NamedTuple):
    """Raw row of a shard: its number in the dataset, and its line (empty when the file ends before it)."""

    number: int
    line: bytes

    @property
    def id(self) -> str:
        """Return the name of the row before parsing."""
        return f"number {self.number}"


@dataclass(frozen=True)
class RawRows:
    """The unparsed lines of a scored folder, by number."""

    source: FolderSource[ScoredSet]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, start: int, stop: int) -> Iterator[RawRow]:
        """Yield rows start..stop."""
        numbers = count(max(start, 0))
        for path, wanted in self.source.places(start, stop):
            yield from map(RawRow, islice(numbers, len(wanted)), lines_of(path, wanted.start, wanted.stop))

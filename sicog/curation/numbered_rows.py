"""Random access to the rows of a dataset or of a user's file, with about 20 bytes of memory per row."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import orjson

from sicog.curation.words import Hashes, digest64
from sicog.data.rows.file_kinds import find_files
from sicog.data.rows.table import open_table
from sicog.records import CandidateSet, Dropped, Example, Query, Record, ScoredSet
from sicog.stages.reader import UNREADABLE
from sicog.stages.storage import lines_of, name_with_article, row_error_message, shards

ALL_TYPES: tuple[type[Record], ...] = (Example, ScoredSet, CandidateSet, Query)


class Rows(Protocol):
    """Rows by number. `n_dropped` rows of the source are unreadable and have no number."""

    path: Path
    n_dropped: int

    def __len__(self) -> int: ...
    def ids(self) -> Iterator[str]:
        """Yield all ids in order, each once."""

    def read(self, numbers: Iterable[int]) -> Iterator[Record]:
        """These rows, in this order."""

    def dropped_rows(self) -> Iterator[Dropped]:
        """Yield the unreadable rows."""


def open_rows(path: Path, cache: Path, types: Sequence[type[Record]] = (Example,)) -> Rows:
    """Open a source: a dataset folder of one of these types, or a user's file or folder of example files."""
    if find_files(path).kind == "dataset" if path.is_dir() else not path.suffix:
        return DatasetRows(path, types)
    return FileRows(path, cache)


class DatasetRows:
    """Records of one of our datasets, found by their offsets. Invalid lines are named by file and line, and have no
    number."""

    def __init__(self, path: Path, types: Sequence[type[Record]]) -> None:
        self.path = path
        self.files = shards(path)
        self.type: type[Record] | None = types[0] if len(types) == 1 else None
        self._numbers, self._offsets, self._lines = array("I"), array("Q"), array("I")
        self._dropped: list[Dropped] = []
        for number, file in enumerate(self.files):
            offset = 0
            for place, line in enumerate(lines_of(file), 1):
                if self._is_record(line, types, f"{file.name}:{place}"):
                    self._numbers.append(number)
                    self._offsets.append(offset)
                    self._lines.append(place)
                offset += len(line)
        if self._dropped and not self._numbers:
            first = self._dropped[0]
            raise ValueError(
                f"{path}/{first.id} is {first.detail}. Another step wrote this folder; "
                "give the folder of the right step"
            )
        self.type = self.type or types[0]
        self.n_dropped = len(self._dropped)

    def _is_record(self, line: bytes, types: Sequence[type[Record]], where: str) -> bool:
        kind = self.type or _type_of(line, types)
        try:
            kind.model_validate_json(line)
        except ValueError as error:
            detail = f"not {name_with_article(kind)} ({row_error_message(error)})"
            self._dropped.append(Dropped(id=where, step="read", reason=UNREADABLE, detail=detail))
            return False
        self.type = kind
        return True

    def __len__(self) -> int:
        return len(self._numbers)

    def ids(self) -> Iterator[str]:
        """All ids in order."""
        for line in self._read(range(len(self))):
            yield orjson.loads(line)["id"]

    def where(self, number: int) -> str:
        """Return file and line of a row."""
        return f"{self.files[self._numbers[number]]}:{self._lines[number]}"

    def read(self, numbers: Iterable[int]) -> Iterator[Record]:
        """These rows, in this order."""
        assert self.type is not None
        yield from map(self.type.model_validate_json, self._read(numbers))

    def _read(self, numbers: Iterable[int]) -> Iterator[bytes]:
        with ExitStack() as stack:
            files: dict[int, BinaryIO] = {}
            for number in numbers:
                of = self._numbers[number]
                if of not in files:
                    files[of] = stack.enter_context(self.files[of].open("rb"))
                files[of].seek(self._offsets[number])
                yield files[of].readline()

    def dropped_rows(self) -> Iterator[Dropped]:
        """Yield the invalid lines."""
        return iter(self._dropped)


def _type_of(line: bytes, types: Sequence[type[Record]]) -> type[Record]:
    """Return the type that a row is valid for; a row is never valid for two types."""
    for kind in types:
        try:
            kind.model_validate_json(line)
        except ValueError:
            continue
        return kind
    return types[0]


class FileRows:
    """Examples of a user's file, read through its table. The second row with an id gets the id `ID~2`, and so on."""

    def __init__(self, path: Path, cache: Path) -> None:
        self.path = path
        self._table = open_table(path, cache)
        self.n_dropped = self._table.n_dropped
        self._earlier = _earlier_counts(np.fromiter((digest64(i) for i in self._ids()), np.uint64, len(self._table)))

    def __len__(self) -> int:
        return len(self._table)

    def _ids(self) -> Iterator[str]:
        for start in range(0, len(self._table), 4096):
            yield from self._table.ids(range(start, min(start + 4096, len(self._table))))

    def ids(self) -> Iterator[str]:
        """All ids in order."""
        for number, row_id in enumerate(self._ids()):
            yield self._unique_id(row_id, number)

    def read(self, numbers: Iterable[int]) -> Iterator[Record]:
        """These rows, in this order."""
        for number in numbers:
            example = self._table.named_row(int(number))
            if self._earlier[number]:
                example = example.model_copy(update={"id": self._unique_id(example.id, number)})
            yield example

    def dropped_rows(self) -> Iterator[Dropped]:
        """Yield the rows of the file that are not examples."""
        return self._table.dropped_rows()

    def _unique_id(self, row_id: str, number: int) -> str:
        return f"{row_id}~{self._earlier[number] + 1}" if self._earlier[number] else row_id


def _earlier_counts(digests_N: Hashes) -> np.ndarray:
    """Return uint32 [N]: the number of earlier rows with the same digest."""
    order = np.argsort(digests_N, kind="stable")
    begins = np.append(True, digests_N[order[1:]] != digests_N[order[:-1]]) if len(order) else order.astype(bool)
    position = np.arange(len(order))
    earlier = np.zeros(len(order), dtype=np.uint32)
    earlier[order] = position - np.maximum.accumulate(np.where(begins, position, 0))
    return earlier

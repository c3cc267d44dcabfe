"""The rows that a stage reads: any range of a source, in a fixed order; our own datasets shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sicog.records import Dropped, Record, RecordT
from sicog.stages.storage import MANIFEST, named, read_json, row_error_message, shards

RowT = TypeVar("RowT", bound=Record, covariant=True)
UNREADABLE = "unreadable_row"


class Source(Protocol[RowT]):
    """Rows in a fixed order, any range of which can be read. A row that cannot be read comes as `Dropped`."""

    def __len__(self) -> int: ...
    def read(self, start: int, stop: int) -> Iterator[RowT | Dropped]: ...


@dataclass
class FolderSource(Generic[RecordT]):
    """The records of one of our own datasets.

    step: when given, a row that cannot be read comes as `Dropped` of that step, with its file and line for an id;
        without it, it is an error.
    """

    folder: Path
    record_type: type[RecordT]
    step: str = ""

    def __len__(self) -> int:
        return sum(self.rows.values())

    @cached_property
    def rows(self) -> dict[str, int]:
        """The number of rows by the name of the shard."""
        paths = shards(self.folder)
        known = read_json(self.folder / MANIFEST).get("rows_per_shard", {})
        return {p.name: known[p.name] if p.name in known else sum(1 for _ in p.open("rb")) for p in paths}

    def read(self, start: int, stop: int) -> Iterator[RecordT | Dropped]:
        """Rows start..stop; only these are parsed."""
        first = 0
        for name, rows in self.rows.items():
            wanted = range(max(start, first), min(stop, first + rows))
            if wanted:
                yield from self._read_shard(self.folder / name, wanted.start - first, wanted.stop - first)
            first += rows

    def _read_shard(self, path: Path, start: int, stop: int) -> Iterator[RecordT | Dropped]:
        with path.open("rb") as file:
            number = 0
            for number, line in enumerate(islice(file, stop), 1):
                if number > start:
                    yield self._parse(line, f"{path}:{number}")
        for missing in range(max(start, number) + 1, stop + 1):
            yield self._unreadable(f"{path}:{missing}", "the file ends before it")

    def _parse(self, line: bytes, where: str) -> RecordT | Dropped:
        try:
            return self.record_type.model_validate_json(line)
        except ValueError as error:
            return self._unreadable(where, row_error_message(error))

    def _unreadable(self, where: str, reason: str) -> Dropped:
        if not self.step:
            raise ValueError(f"{where} is not {named(self.record_type)} ({reason})") from None
        detail = f"not {named(self.record_type)} ({reason})"
        return Dropped(id=where.removeprefix(f"{self.folder}/"), step=self.step, reason=UNREADABLE, detail=detail)

"""The rows that a stage reads: any range of a source, in a fixed order; our own datasets shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sicog.records import Dropped, Record, RecordT
from sicog.stages.storage import MANIFEST, lines_of, name_with_article, read_json, row_error_message, shards

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
        for path, numbers in self.places(start, stop):
            for number, line in zip(numbers, lines_of(path, numbers.start, numbers.stop), strict=True):
                yield self._parse(line, path, number)

    def places(self, start: int, stop: int) -> Iterator[tuple[Path, range]]:
        """The shards of rows start..stop, each with the numbers of their lines, counted from 0."""
        first = 0
        for name, rows in self.rows.items():
            if numbers := range(max(start - first, 0), min(stop - first, rows)):
                yield self.folder / name, numbers
            first += rows

    def _parse(self, line: bytes, path: Path, number: int) -> RecordT | Dropped:
        try:
            return self.record_type.model_validate_json(line)
        except ValueError as error:
            reason = row_error_message(error) if line else "the file ends before it"
        where, detail = f"{path}:{number + 1}", f"not {name_with_article(self.record_type)} ({reason})"
        if not self.step:
            raise ValueError(f"{where} is {detail}")
        return Dropped(id=where.removeprefix(f"{self.folder}/"), step=self.step, reason=UNREADABLE, detail=detail)

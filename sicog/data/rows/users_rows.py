"""Read the rows of a user's file or folder, of any kind that training reads, for steps that make records of them.

These steps refer to images by name. So a file that stores its images itself is refused, because later training could
not find them. Members of a tar have names that are valid after unpacking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sicog.data.rows.file_kinds import SourceFiles, find_files
from sicog.data.rows.sources import column_rows, tar_samples
from sicog.formats import FileSource, JsonFile, RawRow
from sicog.formats.row_keys import Row
from sicog.records import Dropped, RecordT


def open_users_rows(
    path: Path, parse: Callable[[Row, str], RecordT], *, step: str = "read", unique_ids: bool = True
) -> FileSource[RecordT]:
    """The rows of `path`, each turned into a record by `parse(row, id)`. Raises `ValueError` for other files.

    A row without an id gets its index, counted over all files of a folder.
    """
    source = find_files(path)
    if source.kind == "dataset":
        raise ValueError(f"{path} was written by a step of sicog. Give a file or folder of your own rows")
    return FileSource(path, parse, step, unique_ids, UsersRows(source))


@dataclass(frozen=True)
class UsersRows:
    """The raw rows of files of one kind. They can be read repeatedly.

    names_only: refuse rows whose images are stored in the file itself.
    """

    source: SourceFiles
    names_only: bool = True

    def __iter__(self) -> Iterator[RawRow | Dropped]:
        for path in self.source.files:
            if self.source.kind == "json":
                yield from JsonFile(path)
            elif self.source.kind == "tar":
                yield from _tar_rows(path)
            else:
                yield from _column_rows(path, self.names_only)


def _tar_rows(path: Path) -> Iterator[RawRow | Dropped]:
    for sample in tar_samples(path):
        yield sample if isinstance(sample, Dropped) else RawRow(sample.row, path.name, sample.key, sample.key)


def _column_rows(path: Path, names_only: bool) -> Iterator[RawRow]:
    for place, found in enumerate(column_rows(path), 1):
        if names_only and found.holds_images:
            raise ValueError(
                f"{path} stores its images itself, but later steps find images by name. Save each image as a file "
                f"and put its name into the column image (docs/formats.md shows how)"
            )
        yield RawRow(found.row, path.name, place)

"""Store the rows of one source as a memory-mapped Arrow table in the cache.

rows.arrow      id, images (names), turns / extra (JSON text), source, places (file, offset, size of each image)
images.bin      images that a parquet file stores as bytes
dropped.jsonl   unreadable rows with their reasons;  table.json: the counts of both
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from pydantic import TypeAdapter

from sicog.data.rows.cache import build_once
from sicog.data.rows.sources import COPIED, NAMED, Place, PlacedRow, SourceFiles, find_files, read_rows
from sicog.data.rows.tar_files import Packed, digest_tar
from sicog.progress import with_progress
from sicog.records import Dropped, Example, Turn
from sicog.stages.provenance import digest_file, digest_value
from sicog.stages.storage import dump_record, read_json

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 3  # raise it when rows are parsed or stored differently; tables are then built again
_ROWS, _IMAGES, _DROPPED, _META = "rows.arrow", "images.bin", "dropped.jsonl", "table.json"
_BATCH_ROWS, _BATCH_CHARS = 2048, 1 << 24
_TURNS = TypeAdapter(tuple[Turn, ...])
# A fresh file may be written again within one tick of the clock.
_SETTLED_S = 2.0


class RowTable:
    """The rows of a source: `table.row(i)`, `len(table)`. It pickles as a path, and a copy maps the same file."""

    def __init__(self, folder: Path, source: SourceFiles) -> None:
        self.folder = folder
        self.source = source
        counts = read_json(folder / _META)
        self.n_rows: int = counts["rows"]
        self.n_dropped: int = counts["dropped"]

    @property
    def key(self) -> str:
        """The digest of content and format. Equal tables have equal keys."""
        return self.folder.name

    def __len__(self) -> int:
        return self.n_rows

    def row(self, index: int) -> PlacedRow:
        """A row and the places of its images; no places if all images are found by name."""
        batch, at = self._find(index)
        values = {name: batch.column(name)[at].as_py() for name in batch.schema.names}
        numbers = values["places"]
        places = tuple(Place(*numbers[k : k + 3]) for k in range(0, len(numbers), 3))
        example = Example(
            id=values["id"],
            images=values["images"],
            turns=_TURNS.validate_json(values["turns"]),
            source=values["source"],
            extra=orjson.loads(values["extra"]),
        )
        return example, places

    def named_row(self, index: int) -> Example:
        """A row whose images are found by name. Raises `ValueError` if the source itself stores them."""
        example, places = self.row(index)
        if any(self.packed_image(*image) for image in zip(example.images, places, strict=False)):
            raise ValueError(
                f"{self.source.path} stores its images itself, which a mixed dataset cannot. Add it to "
                f"data.sources of the training instead of mixing it"
            )
        return example

    def ids(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """The ids of some rows."""
        return [self._id(int(index)) for index in indices]

    def packed_image(self, name: str, place: Place) -> Packed | None:
        """The bytes of an image of a row; None if it is found by name."""
        if place == NAMED:
            return None
        file = self.folder / _IMAGES if place.file == COPIED else self.source.files[place.file]
        return Packed(file, place.offset, place.size, f"{file if place.file != COPIED else self.source.path}:{name}")

    def dropped_rows(self) -> Iterator[Dropped]:
        """The rows that could not be read."""
        with (self.folder / _DROPPED).open("rb") as file:
            yield from map(Dropped.model_validate_json, file)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_reader", "_starts", "_batches")}

    def _id(self, index: int) -> str:
        batch, at = self._find(index)
        return str(batch.column("id")[at].as_py())

    def _find(self, index: int) -> tuple[pa.RecordBatch, int]:
        if not 0 <= index < self.n_rows:
            raise IndexError(f"row {index} of {self.n_rows}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._batches[number], index - int(self._starts[number])

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        """Views of the mapped file, each of some thousand rows. No row is read."""
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(use_threads=False)
        reader = pa.ipc.open_file(pa.memory_map(str(self.folder / _ROWS)), options=options)
        return [reader.get_batch(i) for i in range(reader.num_record_batches)]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(batch.num_rows for batch in self._batches)])[:-1]


def open_table(path: Path, cache: Path) -> RowTable:
    """The table of a source, converted on first use. Raises `ValueError` if the source cannot be read."""
    source = find_files(path)
    content = [[file.name, digest_source_file(file, cache)] for file in source.files]
    key = digest_value([FORMAT, source.kind, content])
    folder = build_once(cache / "tables" / key, lambda folder: _convert(source, folder), f"the table of {path}")
    return RowTable(folder, source)


def digest_source_file(path: Path, cache: Path) -> str:
    """The digest of a file's content (for a tar see `digest_tar`), cached by path, size, time and inode."""
    stat = path.stat()
    digest = digest_tar if path.suffix.lower() == ".tar" else digest_file
    if time.time() - stat.st_mtime < _SETTLED_S:
        return digest(path)
    known_by = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino, digest.__name__]

    def remember(folder: Path) -> None:
        (folder / "digest").write_text(digest(path))

    return (
        build_once(cache / "digests" / digest_value(known_by), remember, f"the digest of {path}") / "digest"
    ).read_text()


def _convert(source: SourceFiles, folder: Path) -> None:
    """Stream the rows into the files of a table. Memory holds one batch."""
    import pyarrow as pa

    schema = pa.schema(
        {
            "id": pa.string(),
            "images": pa.list_(pa.string()),
            "turns": pa.string(),
            "source": pa.string(),
            "extra": pa.string(),
            "places": pa.list_(pa.int64()),
        }
    )
    rows = dropped = 0
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    chars = 0
    with (
        (folder / _ROWS).open("wb") as file,
        (folder / _IMAGES).open("wb") as copies,
        (folder / _DROPPED).open("wb") as drops,
        pa.ipc.new_file(file, schema) as writer,
    ):

        def flush() -> None:
            if columns["id"]:
                writer.write_batch(pa.record_batch([columns[name] for name in schema.names], schema=schema))
            for values in columns.values():
                values.clear()

        for row in with_progress(read_rows(source, copies), f"reading {source.path.name}"):
            if isinstance(row, Dropped):
                drops.write(dump_record(row))
                dropped += 1
                continue
            chars += _append(columns, *row)
            rows += 1
            if len(columns["id"]) >= _BATCH_ROWS or chars >= _BATCH_CHARS:
                flush()
                chars = 0
        flush()
    (folder / _META).write_bytes(orjson.dumps({"rows": rows, "dropped": dropped}))


def _append(columns: dict[str, list[Any]], example: Example, places: tuple[Place, ...]) -> int:
    """Add a row to the columns. Returns its approximate number of characters."""
    turns = orjson.dumps([{"role": t.role, "text": t.text, "images_at": t.images_at} for t in example.turns]).decode()
    extra = orjson.dumps(example.extra).decode()
    columns["id"].append(example.id)
    columns["images"].append(list(example.images))
    columns["turns"].append(turns)
    columns["source"].append(example.source)
    columns["extra"].append(extra)
    columns["places"].append([number for place in places for number in place])
    return len(turns) + len(extra)

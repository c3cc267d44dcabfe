"""Stream the rows of a source: our datasets, JSON, JSONL, parquet, Arrow, webdataset tars, and folders of these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from datetime import date, datetime, time
from itertools import groupby
from pathlib import Path
from types import NoneType
from typing import IO, Any, NamedTuple
from uuid import UUID

import orjson

from sicog.data.rows.file_kinds import IMAGE_SUFFIXES, SourceFiles
from sicog.data.rows.file_kinds import find_files as find_files
from sicog.data.rows.tar_files import Member, members
from sicog.formats import parse_example, parse_row, read_llava
from sicog.formats.json_rows import loads
from sicog.records import Dropped, Example
from sicog.stages.storage import open_table, read_records

_ROWS_AT_ONCE = 32  # rows of parquet read together; they may hold whole images
_OF_JSON = frozenset({str, int, float, bool, NoneType, datetime, date, time, UUID})  # types that orjson writes


class Place(NamedTuple):
    """The place of an image: a file of the source (by number), the copies of the table, or its name."""

    file: int
    offset: int
    size: int


BY_NAME, COPIED = -1, -2
NAMED = Place(BY_NAME, 0, 0)
# A row and the places of its images; no places if all images are found by name.
PlacedRow = tuple[Example, tuple[Place, ...]]


def read_rows(source: SourceFiles, copies: IO[bytes]) -> Iterator[PlacedRow | Dropped]:
    """All rows in order. Images stored as bytes in a parquet file are appended to `copies`."""
    if source.kind == "dataset":
        yield from ((example, ()) for example in read_records(source.path, Example))
        return
    for number, path in enumerate(source.files):
        if source.kind == "json":
            yield from (row if isinstance(row, Dropped) else (row, ()) for row in read_llava(path))
        elif source.kind == "tar":
            yield from _tar_rows(path, number)
        else:
            for index, row in enumerate(column_rows(path)):
                yield _column_row(row, index, path, copies)


class ColumnRow(NamedTuple):
    """A row of columns, with image names under `images`. contents: the bytes of images stored in the file."""

    row: dict[str, Any]
    contents: tuple[bytes | None, ...]

    @property
    def holds_images(self) -> bool:
        """Whether the file itself stores an image of the row."""
        return any(content is not None for content in self.contents)


def column_rows(path: Path) -> Iterator[ColumnRow]:
    """The rows of a file of columns: parquet, the Arrow files of `datasets.save_to_disk`, or a metadata.csv."""
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _arrow_rows(path)
    for index, row in enumerate(rows):
        yield _row_with_image_names(_readable(_without_nulls(row)), index)  # Arrow gives every row the keys of all rows


def count_file(path: Path) -> int:
    """The number of rows of a file of columns or a webdataset tar, without reading the rows.

    It comes from the metadata of tables and the member names of tars. Raises `ValueError` if the file is damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return sum(member.is_file and _split(member.name)[1].lower() == "json" for member in members(path))
    if suffix == ".csv":
        return sum(1 for _ in _csv_rows(path))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if suffix == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
            return sum(batch.num_rows for batch in batches)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open_table(path, ",") as rows:
        for row in rows:
            yield {key: value or None for key, value in row.items() if key is not None}


def _arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = 0
    try:
        with ExitStack() as stack:
            if path.suffix.lower() == ".arrow":
                batches = iter(stack.enter_context(pa.ipc.open_stream(stack.enter_context(pa.memory_map(str(path))))))
            else:
                file = stack.enter_context(pq.ParquetFile(path))
                batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False)
            for batch in batches:
                for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    some = batch.slice(start, _ROWS_AT_ONCE)
                    for values in zip(*map(_values, some.columns), strict=True):
                        yield dict(zip(some.schema.names, values, strict=True))
                        index += 1
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "filename", None):  # an error of the cache's file, not of this one
            raise
        kind = "Arrow" if path.suffix.lower() == ".arrow" else "parquet"
        raise ValueError(f"{path} is not a {kind} file, or is damaged after row {index}: {error}") from error


def _values(column: Any) -> list[Any]:
    """A column's values as Python objects; times that Python cannot represent (nanoseconds, year 20000) as text."""
    import pyarrow as pa

    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        with suppress(pa.ArrowException):
            return column.cast(pa.string()).to_pylist()
        return [None] * len(column)  # in lists or structs, which have no text form; such a column is not used


def _row_with_image_names(row: dict[str, Any], index: int) -> ColumnRow:
    # A text-only row in a table with images has an empty image.
    values = next(filter(None, (_given_images(row.get(key)) for key in ("image", "images"))), [])
    row = {key: value for key, value in row.items() if key not in ("image", "images")}
    names: list[Any] = []
    contents: list[bytes | None] = []
    for number, value in enumerate(values):
        name, content = (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (value, None)
        if isinstance(name, bytes):
            name, content = None, name
        contents.append(content)
        names.append(name or f"row {index + 1}, image {number + 1}" if content is not None else name)
    return ColumnRow({**row, "images": names} if names else row, tuple(contents))


def _given_images(value: Any) -> list[Any]:
    return [image for image in (value if isinstance(value, list) else [value]) if image not in (None, {})]


def _column_row(found: ColumnRow, index: int, path: Path, copies: IO[bytes]) -> PlacedRow | Dropped:
    example = parse_row(found.row, index, parse_example, where=f"{path.name}:{index + 1}")
    if isinstance(example, Dropped) or not found.holds_images:
        return example if isinstance(example, Dropped) else (example, ())
    return example, tuple(_copy_image(content, copies) for content in found.contents)


def _copy_image(content: bytes | None, copies: IO[bytes]) -> Place:
    if content is None:
        return NAMED
    place = Place(COPIED, copies.tell(), len(content))
    copies.write(content)
    return place


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """The row in JSON types, except its images: bytes become null, other types (decimals) become text."""
    return {key: value if key in ("image", "images") else _as_json(value) for key, value in row.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _as_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):  # pairs of a map are tuples
        return [_as_json(v) for v in value]
    if type(value) in _OF_JSON:
        return value
    return None if isinstance(value, bytes) else str(value)


def _tar_rows(path: Path, number: int) -> Iterator[PlacedRow | Dropped]:
    for index, sample in enumerate(tar_samples(path)):
        if isinstance(sample, Dropped):
            yield sample
            continue
        where = f"{path.name}:{sample.key}"
        example = parse_row(sample.row, index, parse_example, where=where, default_id=sample.key)
        if isinstance(example, Dropped):
            others = ", ".join(f".{suffix}" for suffix in sample.unread)
            hidden = f"; members without the suffix of an image: {others}" if others else ""
            detail = f"{example.detail}{hidden}" if example.reason == "marker_count" else example.detail
            yield example.model_copy(update={"detail": detail})
        else:
            yield example, tuple(Place(number, m.offset, m.size) for m in sample.images)


class TarSample(NamedTuple):
    """One webdataset sample. `row` is JSON text if it needs no change or cannot be read.

    unread: its members that are neither the row nor named like an image.
    """

    key: str
    row: dict[str, Any] | bytes
    images: tuple[Member, ...]
    unread: tuple[str, ...] = ()


def tar_samples(path: Path) -> Iterator[TarSample | Dropped]:
    """The samples of a webdataset tar. `key.json` is the row, `key.jpg` or `key.0.jpg`, `key.1.png` ... its images.

    Raises `ValueError` for a tar with only images, because it has no rows.
    """
    rows = pictures = 0
    with path.open("rb") as file:
        for key, group in groupby(members(path), key=lambda member: _split(member.name)[0]):
            found = list(group)
            rows += any(_split(member.name)[1].lower() == "json" for member in found)
            pictures += 1
            yield _tar_sample(key, found, file, f"{path.name}:{key}")
    if pictures and not rows:
        raise ValueError(
            f"{path} holds {pictures} files and no rows (no .json members): give it as image_folder, beside a file of "
            f"rows that name its members"
        )


def _tar_sample(key: str, group: Iterable[Member], file: IO[bytes], where: str) -> TarSample | Dropped:
    texts, images, unread = [], [], []
    for member in group:
        suffix = _split(member.name)[1].lower()
        is_image = suffix.rpartition(".")[2] in IMAGE_SUFFIXES
        if not member.is_file and (is_image or suffix == "json"):
            detail = f"{where}: {member.name} is a link or device, which is not read from an archive"
            return Dropped(id=key, step="read", reason="image_refused" if is_image else "malformed_row", detail=detail)
        if suffix == "json":
            texts.append(member)
        elif is_image:
            images.append(member)
        else:
            unread.append(_split(member.name)[1])
    if len(texts) != 1:
        return Dropped(
            id=key, step="read", reason="malformed_row", detail=f"{where}: {len(texts)} .json members, not one"
        )
    images.sort(key=lambda member: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", member.name)])
    file.seek(texts[0].offset)
    raw = file.read(texts[0].size)
    return TarSample(key, _with_images(raw, [m.name for m in images]), tuple(images), tuple(unread))


def _with_images(raw: bytes, names: list[str]) -> dict[str, Any] | bytes:
    if not names:
        return raw
    try:
        row = loads(raw)
    except orjson.JSONDecodeError:
        return raw
    if not isinstance(row, dict):
        return raw
    return {**{k: v for k, v in row.items() if k not in ("image", "images")}, "images": names}


def _split(name: str) -> tuple[str, str]:
    """(key, suffix) of a member. As in webdataset, the suffix is everything after the first dot of the file name."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + slash + stem, suffix

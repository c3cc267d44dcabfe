"""The rows of a source, streamed: our datasets, JSON, JSONL, parquet, webdataset tars, and folders of such shards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from sicog.data.tar_files import Member, members
from sicog.formats import given, parse_example, parse_row, read_llava
from sicog.provenance import RUN
from sicog.records import Dropped, Example
from sicog.storage import MANIFEST, read_records, shards

Kind = Literal["dataset", "json", "parquet", "tar"]
_KINDS: dict[str, Kind] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".tar": "tar",
}
# What is nearly a shard: passing over it would lose its rows without a word.
_UNREAD = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".tgz", ".csv", ".tsv", ".arrow", ".feather"})
# Of pictures, also those that no decoder here may know: they are then refused by name.
_IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jp2"}
    | {"j2k", "jpx", "ico", "ppm", "pgm", "pbm", "pnm", "tga"}
)
_LOOKED_AT = 1_000  # names of a folder beside shards
_ROWS_AT_ONCE = 32  # of parquet, whose rows may hold whole images


class Place(NamedTuple):
    """Where an image lies: in a file of the source (by its number), among the table's copies, or under its name."""

    file: int
    offset: int
    size: int


BY_NAME, COPIED = -1, -2
NAMED = Place(BY_NAME, 0, 0)
# A row, and the places of its images: none when all go by their names.
PlacedRow = tuple[Example, tuple[Place, ...]]


@dataclass(frozen=True)
class SourceFiles:
    """What a source's path stands for: its files in order, all of one kind."""

    path: Path
    kind: Kind
    files: tuple[Path, ...]


def find_files(path: Path) -> SourceFiles:
    """The files of a source. Raises `ValueError` when there are none, or it is not a source."""
    if not path.is_dir():
        if path.suffix.lower() not in _KINDS:
            raise ValueError(
                f"{path} is no data source: give a dataset folder, a folder of shards, a .json, .jsonl, .parquet or "
                f".tar file, or a .yaml mixture"
            )
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        return SourceFiles(path, _KINDS[path.suffix.lower()], (path,))
    # run.json is written first and manifest.json last, so a folder with one of them is a step's.
    if (path / RUN).is_file() or ((path / MANIFEST).is_file() and next(path.glob("shard-*.jsonl"), None)):
        return SourceFiles(path, "dataset", tuple(shards(path)))
    seen = sorted(p for p in path.iterdir() if p.name[0] != "." and p.name != MANIFEST)
    files = [p for p in seen if p.suffix.lower() in _KINDS and p.is_file()]
    kinds = {_KINDS[p.suffix.lower()] for p in files}
    if not kinds:
        raise ValueError(f"{path} is no data source: it holds no .json, .jsonl, .parquet or .tar files, nor {MANIFEST}")
    if len(kinds) > 1:
        raise ValueError(
            f"{path} holds files of several kinds ({', '.join(sorted(kinds))}); name one file, or use YAML"
        )
    if unread := [p.name for p in seen if _is_unread(p, kinds)]:
        raise ValueError(
            f"{path} also holds {', '.join(unread[:5])}{', ...' if len(unread) > 5 else ''}, which a folder of shards "
            f"does not read: name the files or folders one by one (in a .yaml mixture), or move it away"
        )
    return SourceFiles(path, kinds.pop(), tuple(files))


def _is_unread(path: Path, kinds: set[Kind]) -> bool:
    """Whether a file or folder beside shards of these kinds holds rows that are not read.

    Of a folder the first names decide, for it may hold a million pictures; tars beside JSON may hold pictures too.
    """
    if not path.is_dir():
        return path.suffix.lower() in _UNREAD
    return any(_KINDS.get(p.suffix.lower()) in kinds for p in islice(path.iterdir(), _LOOKED_AT))


def read_rows(source: SourceFiles, copies: IO[bytes]) -> Iterator[PlacedRow | Dropped]:
    """All rows in order. Images that are bytes of a parquet file are appended to `copies`."""
    if source.kind == "dataset":
        yield from ((example, ()) for example in read_records(source.path, Example))
        return
    for number, path in enumerate(source.files):
        if source.kind == "json":
            yield from (row if isinstance(row, Dropped) else (row, ()) for row in read_llava(path))
        elif source.kind == "parquet":
            yield from _parquet_rows(path, copies)
        else:
            yield from _tar_rows(path, number)


def _parquet_rows(path: Path, copies: IO[bytes]) -> Iterator[PlacedRow | Dropped]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False):
                for row in batch.to_pylist():
                    yield _parquet_row(row, index, path, copies)
                    index += 1
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "filename", None):  # the cache's file, not this one
            raise
        raise ValueError(f"{path} is no parquet file, or is damaged after row {index}: {error}") from error


def _parquet_row(row: Any, index: int, path: Path, copies: IO[bytes]) -> PlacedRow | Dropped:
    row = _readable(_without_nulls(row))  # Arrow gives every row every key
    shown = given(row, "image", "images")
    row = {key: value for key, value in row.items() if key not in ("image", "images")}
    # A text alone, beside rows with images, has an image of nothing.
    values = [value for value in (shown if isinstance(shown, list) else [shown]) if value not in (None, {})]
    names: list[Any] = []
    contents: list[bytes | None] = []
    for number, value in enumerate(values):
        name, content = (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (value, None)
        if isinstance(name, bytes):
            name, content = None, name
        contents.append(content)
        names.append(name or f"row {index + 1}, image {number + 1}" if content is not None else name)
    if names:
        row["images"] = names
    example = parse_row(row, index, parse_example, where=f"{path.name}:{index + 1}")
    if isinstance(example, Dropped) or not any(content is not None for content in contents):
        return example if isinstance(example, Dropped) else (example, ())
    return example, tuple(_copied(content, copies) for content in contents)


def _copied(content: bytes | None, copies: IO[bytes]) -> Place:
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
    """The row with all but its images as JSON has it: decimals and durations as text, bytes as null."""
    return {key: value if key in ("image", "images") else _as_json(value) for key, value in row.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _as_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_as_json(v) for v in value]
    return str(value) if isinstance(value, (Decimal, timedelta)) else None if isinstance(value, bytes) else value


def _tar_rows(path: Path, number: int) -> Iterator[PlacedRow | Dropped]:
    with path.open("rb") as file:
        for index, (key, group) in enumerate(groupby(members(path), key=lambda member: _split(member.name)[0])):
            yield _tar_row(key, list(group), index, file, path, number)


def _tar_row(
    key: str, group: Iterable[Member], index: int, file: IO[bytes], path: Path, number: int
) -> PlacedRow | Dropped:
    """One webdataset sample: `key.json` is the row, `key.jpg` or `key.0.jpg`, `key.1.png` ... are its images."""
    where = f"{path.name}:{key}"
    texts, images = [], []
    for member in group:
        suffix = _split(member.name)[1].lower()
        is_image = suffix.rpartition(".")[2] in _IMAGE_SUFFIXES
        if not member.is_file and (is_image or suffix == "json"):
            detail = f"{where}: {member.name} is a link or device, which is not read from an archive"
            return Dropped(id=key, step="read", reason="image_refused" if is_image else "malformed_row", detail=detail)
        if suffix == "json":
            texts.append(member)
        elif is_image:
            images.append(member)
    if len(texts) != 1:
        return Dropped(
            id=key, step="read", reason="malformed_row", detail=f"{where}: {len(texts)} .json members, not one"
        )
    images.sort(key=lambda member: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", member.name)])
    file.seek(texts[0].offset)
    raw = file.read(texts[0].size)

    def parse(row: dict[str, Any], row_id: str) -> Example:
        if not images:
            return parse_example(row, row_id)
        kept = {k: v for k, v in row.items() if k not in ("image", "images")}
        return parse_example({**kept, "images": [m.name for m in images]}, row_id)

    example = parse_row(raw, index, parse, where=where, default_id=key)
    if isinstance(example, Dropped):
        return example
    return example, tuple(Place(number, m.offset, m.size) for m in images)


def _split(name: str) -> tuple[str, str]:
    """(key, suffix) of a member: the suffix is all after the first dot of the last part, as webdataset has it."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + slash + stem, suffix

"""Recognise the kind of a file or folder of users' rows, before anything is parsed.

The suffix declares the kind, and the first bytes must agree with it. docs/formats.md lists which command reads which
kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from sicog.stages.provenance import RUN
from sicog.stages.storage import MANIFEST, is_finished, read_json, shards

Kind = Literal["dataset", "json", "parquet", "arrow", "csv", "tar"]
_KINDS: dict[str, Kind] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".tar": "tar",
}
# Suffixes of images, also those without a decoder here; such images are then refused by name.
IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jp2"}
    | {"j2k", "jpx", "ico", "ppm", "pgm", "pbm", "pnm", "tga"}
)
# Suffixes similar to shards. Ignoring such a file would lose its rows silently.
_UNREAD = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".tgz", ".csv", ".tsv", ".arrow", ".feather"})
_LOOKED_AT = 1_000  # names of a folder beside shards
# Files of `datasets.save_to_disk`. A DatasetDict has one folder for each split.
_ARROW_STATE, _SPLITS = "state.json", "dataset_dict.json"
_METADATA_CSV = "metadata.csv"  # in an image folder of `datasets`; its metadata.jsonl is read as other JSON

# First bytes, their meaning, and our kind for them.
_MAGIC: tuple[tuple[bytes, str, Kind | None], ...] = (
    (b"PAR1", "a parquet file", "parquet"),
    (b"ARROW1", "an Arrow file", None),
    (b"\xff\xff\xff\xff", "an Arrow stream", "arrow"),
    (b"\x1f\x8b", "compressed with gzip", None),
    (b"BZh", "compressed with bzip2", None),
    (b"\xfd7zXZ", "compressed with xz", None),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", None),
    (b"PK\x03\x04", "a zip archive", None),
    (b"7z\xbc\xaf", "a 7z archive", None),
    (b"SQLite format 3", "an SQLite database", None),
    (b"\x89HDF", "an HDF5 file", None),
    (b"\x93NUMPY", "a NumPy array", None),
    (b"%PDF", "a PDF", None),
    (b"\x89PNG", "a PNG picture", None),
    (b"\xff\xd8\xff", "a JPEG picture", None),
    (b"GIF8", "a GIF picture", None),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8", None),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8", None),
)
_TAR_AT, _TAR = 257, b"ustar"
_BOM = b"\xef\xbb\xbf"
_KNOWN = "a .json, .jsonl, .parquet or .tar file"


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source in order, all of one kind."""

    path: Path
    kind: Kind
    files: tuple[Path, ...]


def find_files(path: Path) -> SourceFiles:
    """The files of a source. Raises `ValueError` for a missing file, another kind of file, or a wrong suffix."""
    if path.is_dir():
        return _files_of_folder(path)
    kind = _KINDS.get(path.suffix.lower())
    if kind is None and path.is_file() and _first_bytes(path).removeprefix(_BOM).lstrip()[:1] in (b"[", b"{"):
        kind = "json"  # although the suffix does not say so
    if kind is None:
        found = f" ({found[0]})" if path.is_file() and (found := _kind_by_content(path)) else ""
        raise ValueError(
            f"{path} is not a data source{found}. Give a dataset folder, a folder of shards, {_KNOWN}, or, for "
            f"training, a .yaml mixture"
        )
    if not path.is_file():
        braces = "; {a,b} stands for files in data.path, and in sources of train and mix" if "{" in path.name else ""
        raise ValueError(f"{path}: no such file{braces}")
    check_content(path, kind)
    return SourceFiles(path, kind, (path,))


def unreadable_message(path: Path) -> list[str]:
    """The error of `find_files` for an existing path, as a list; empty if the path is missing."""
    if not path.exists():
        return []
    try:
        find_files(path)
    except ValueError as error:
        return [str(error)]
    return []


def check_content(path: Path, kind: Kind) -> None:
    """Raise `ValueError` for a file whose first bytes belong to another kind; the message names both kinds."""
    if found := _kind_by_content(path):
        what, its_kind = found
        if its_kind != kind:
            unpack = "; unpack it first" if "compressed" in what or "archive" in what else ""
            rename = f"; rename it to end in .{its_kind}" if its_kind in ("parquet", "tar") else ""
            raise ValueError(f"{path} has the suffix of {kind}, but its content is {what}{unpack}{rename}")
    if kind == "json" and _is_one_object(path):
        raise ValueError(
            f"{path} is one JSON object over several lines: rows are a list ([...]) or JSONL, one row on each line. "
            f"If one of its keys holds the rows, write that list to a separate file"
        )


def _kind_by_content(path: Path) -> tuple[str, Kind | None] | None:
    start = _first_bytes(path)
    if start[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return "a tar archive", "tar"
    return next(((what, kind) for magic, what, kind in _MAGIC if start.startswith(magic)), None)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_TAR_AT + len(_TAR))


def _is_one_object(path: Path) -> bool:
    """Whether the first non-empty line is a single brace, as in a pretty-printed object."""
    with path.open("rb") as file:
        lines = (line.removeprefix(_BOM).strip() for line in islice(file, 100))
        return next(filter(None, lines), b"") == b"{"


def _files_of_folder(path: Path) -> SourceFiles:
    # run.json is written first and manifest.json last. So a folder with one of them is the output of a step.
    if (path / RUN).is_file() or (is_finished(path) and next(path.glob("shard-*.jsonl"), None)):
        return SourceFiles(path, "dataset", tuple(shards(path)))
    if (path / _SPLITS).is_file():
        splits = [str(name) for name in read_json(path / _SPLITS).get("splits", [])]
        raise ValueError(
            f"{path} holds the splits {', '.join(splits)} of `datasets.save_to_disk`. Give one of their folders, such "
            f"as {path / (splits[0] if splits else 'train')}"
        )
    if (path / _ARROW_STATE).is_file() and next(path.glob("*.arrow"), None):
        return _arrow_files(path)
    seen = sorted(p for p in path.iterdir() if p.name[0] != "." and p.name != MANIFEST)
    files = [p for p in seen if p.suffix.lower() in _KINDS and p.is_file()]
    kinds = {_KINDS[p.suffix.lower()] for p in files}
    if not kinds and (path / _METADATA_CSV).is_file():
        return SourceFiles(path, "csv", (path / _METADATA_CSV,))
    if not kinds:
        raise ValueError(f"{path} is not a data source: it holds no {_KNOWN[2:]}s, nor {MANIFEST}{_hint(seen)}")
    if len(kinds) > 1:
        raise ValueError(
            f"{path} holds files of several kinds ({', '.join(sorted(kinds))}); name one file, or use YAML"
        )
    if unread := [p.name for p in seen if _is_unread(p, kinds)]:
        raise ValueError(
            f"{path} also holds {', '.join(unread[:5])}{', ...' if len(unread) > 5 else ''}, which a folder of shards "
            f"does not read: name the files or folders one by one (in a .yaml mixture), or move it away"
        )
    kind = kinds.pop()
    for file in files:
        check_content(file, kind)
    return SourceFiles(path, kind, tuple(files))


def _arrow_files(path: Path) -> SourceFiles:
    state = read_json(path / _ARROW_STATE)
    files = [path / str(entry["filename"]) for entry in state.get("_data_files", ())]
    if gone := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{path}: {', '.join(gone[:5])} is missing (named in {_ARROW_STATE}). Copy the whole folder")
    return SourceFiles(path, "arrow", tuple(files))


def _hint(seen: Iterable[Path]) -> str:
    """A hint at the other content of the folder."""
    first = list(islice(seen, _LOOKED_AT))
    if inner := [p.name for p in first if p.is_dir() and _holds_rows(p)]:
        return f". Its folders {', '.join(inner[:5])} do. Give one of them"
    if any(p.suffix.lower()[1:] in IMAGE_SUFFIXES for p in first):
        return '. It holds pictures: a file of rows has to name them, such as {"id": "1", "image": "1.jpg"}'
    return ""


def _holds_rows(folder: Path) -> bool:
    names = {p.name for p in islice(folder.iterdir(), _LOOKED_AT)}
    return bool(names & {MANIFEST, _ARROW_STATE, _METADATA_CSV}) or any(Path(n).suffix.lower() in _KINDS for n in names)


def _is_unread(path: Path, kinds: set[Kind]) -> bool:
    """Whether a file or folder beside shards of these kinds has rows that are not read.

    Only the first names in a folder are checked, because it may hold a million images. So may tars beside JSON.
    """
    if not path.is_dir():
        return path.suffix.lower() in _UNREAD
    return any(_KINDS.get(p.suffix.lower()) in kinds for p in islice(path.iterdir(), _LOOKED_AT))

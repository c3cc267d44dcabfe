"""Datasets on disk: a folder of JSONL shards with a manifest; writes are atomic, an unfinished folder is never read.

shard-00000.jsonl ...   the records, in input order
dropped.jsonl           rows that were dropped, with their reason;  failed.jsonl likewise
manifest.json           written last: rows in, rows out, dropped by reason, digests; its presence means complete
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import logging
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice, repeat
from pathlib import Path
from typing import IO, Any

import orjson
from pydantic import ValidationError

from sicog.config.validation import first_validation_message
from sicog.records import Record, RecordT

MANIFEST = "manifest.json"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # of the machine, or of the user's share of it
_BUFFER = 1 << 17
log = logging.getLogger(__name__)


@contextmanager
def file_lock(path: Path, what: Path, *, of_forks: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, so that no other process writes `what`; however this process ends, the lock goes.

    of_forks: processes that this one forks hold it too, and may outlive it for a moment.
    Raises `ValueError` when another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            (fcntl.flock if of_forks else fcntl.lockf)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # which of them, depends on the kind of lock
            raise ValueError(f"{what} is being written by another process; wait for it to end, or stop it") from None
        except OSError as error:  # some network file systems have no locks
            log.warning("%s cannot be locked (%s): do not start a second process on it", what, error.strerror)
        yield


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock file `path`, in either of the two ways of `file_lock`."""
    with path.open("a") as file:
        for lock in (fcntl.flock, fcntl.lockf):
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                return True
            except OSError:  # a file system without locks
                return False
    return False


@contextmanager
def open_table(path: Path, delimiter: str = "\t") -> Iterator[csv.DictReader[str]]:
    """The rows of a TSV or CSV, behind the mark that Excel begins it with. Raises `ValueError` unless it is UTF-8."""
    csv.field_size_limit(sys.maxsize)  # images are cells
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield csv.DictReader(file, delimiter=delimiter)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None


def table_bytes(rows: Sequence[Mapping[str, Any]], delimiter: str = "\t") -> bytes:
    """Rows as a TSV or CSV, with a header; the columns come in the order in which rows first have them."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on success it replaces `path`, on any error nothing is left behind."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")  # always the same: what a kill leaves is overwritten by the next try
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise ValueError(f"{path}: the disk is full; nothing was written, free some space and run again") from error
        raise


def make_readable(path: Path) -> None:
    """Let others read a file, or all files of a folder, as far as the umask lets them read any new file.

    safetensors and `tempfile` write files and folders that their owner alone can read.
    """
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    inner = path.rglob("*") if path.is_dir() else ()
    for found in (path, *inner):
        wanted = (0o777 if found.is_dir() else 0o666) & ~umask
        if not found.is_symlink() and (mode := stat.S_IMODE(found.stat().st_mode)) | wanted != mode:
            found.chmod(mode | wanted)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file atomically."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically: sorted keys, indented, one newline at the end."""
    write_bytes(
        path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
    )


def read_json(path: Path) -> Any:
    """Read a small JSON file. Raises `ValueError` naming the file when it is missing or broken."""
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def dump_record(record: RecordT) -> bytes:
    """One JSON line, with its newline. Keys come in the order of the fields, so equal records are equal bytes."""
    return orjson.dumps(record.model_dump(mode="json")) + b"\n"


def write_records(path: Path, records: Iterable[RecordT]) -> int:
    """Write records as one JSONL file, atomically; returns their number."""
    n = 0
    with atomic_write(path) as file:
        for record in records:
            file.write(dump_record(record))
            n += 1
    return n


def is_finished(folder: Path) -> bool:
    """Whether the work that fills this folder has finished: its manifest is written last, and nothing else says so.

    run.json names the owner of a folder; `.steps/NAME.json` of a recipe notes tries and times of a step.
    """
    return (folder / MANIFEST).is_file()


def shards(folder: Path) -> list[Path]:
    """The shards of a complete dataset, in order. Raises `ValueError` when it is missing or unfinished."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such dataset folder")
    if not is_finished(folder):
        raise ValueError(f"{folder} has no {MANIFEST}: the step that writes it has not finished; run that step again")
    return sorted(folder.glob("shard-*.jsonl"))


def lines_of(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Lines start..stop of a shard, counted from 0, with their newlines; b"" for each that the shard ends before."""
    with path.open("rb", buffering=_BUFFER) as file:
        lines = islice(file, start, stop)
        yield from lines if stop is None else islice(chain(lines, repeat(b"")), stop - start)


def read_records(folder: Path, record_type: type[RecordT]) -> Iterator[RecordT]:
    """Stream the records of one of our own datasets. A row of another type is an error that names file and line."""
    for shard in shards(folder):
        for number, line in enumerate(lines_of(shard), 1):
            try:
                yield record_type.model_validate_json(line)
            except ValidationError as error:
                raise ValueError(
                    f"{shard}:{number} is not {name_with_article(record_type)} ({row_error_message(error)}); "
                    f"was this folder written by another step?"
                ) from None


def name_with_article(record_type: type[Record]) -> str:
    """`an Example`, `a Query`."""
    name = record_type.__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def row_error_message(error: ValueError) -> str:
    """Why a line is no record, in one line: the first field that does not fit, without the field's value."""
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    return first_validation_message(error)


def count_rows(folder: Path) -> int:
    """The number of rows of a complete dataset, from its manifest."""
    shards(folder)
    return int(read_json(folder / MANIFEST)["rows_out"])


def write_dataset(folder: Path, records: Iterable[RecordT], *, rows_per_shard: int = 10_000) -> int:
    """Write a small dataset that no stage made (tests, the mini world): shards, then the manifest.

    Raises `ValueError` when the folder already holds one.
    """
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder} already holds a dataset; choose another folder or remove it")
    total, part, buffer = 0, 0, []
    for record in records:
        buffer.append(record)
        if len(buffer) == rows_per_shard:
            total += write_records(folder / shard_name(part), buffer)
            part, buffer = part + 1, []
    if buffer or part == 0:
        total += write_records(folder / shard_name(part), buffer)
    write_json(folder / MANIFEST, {"rows_in": total, "rows_out": total, "dropped": {}, "failed": {}})
    return total


def shard_name(index: int) -> str:
    """`shard-00000.jsonl` and so on."""
    return f"shard-{index:05d}.jsonl"


def truncate_to_last_line(path: Path) -> list[bytes]:
    """The whole lines of JSON at the beginning of a file that was being appended to; what follows is cut off."""
    if not path.exists():
        return []
    lines, size = [], 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or not _is_json(line):
                break
            lines.append(line)
            size += len(line)
    if size != path.stat().st_size:
        os.truncate(path, size)
    return lines


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True

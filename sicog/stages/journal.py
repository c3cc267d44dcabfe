"""What the worker of one shard has finished: the bytes of its records, and a journal with one line per block.

Records are appended to files that become the shards by a rename, so they are written once. A block counts when its
line in the journal is complete and the files hold the bytes that it speaks of; what a kill leaves behind that is cut
off.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from sicog.stages.storage import DISK_FULL, atomic_write, shard_name, truncate_to_last_line

WORK = ".work"


class Journal:
    """The journal of shard `rank` of the dataset `out_dir`; `folders` are its sub-folders, "" is the dataset itself."""

    def __init__(self, out_dir: Path, rank: int, folders: Iterable[str]) -> None:
        self.out_dir, self.rank, self.folders = out_dir, rank, tuple(folders)
        self.path = out_dir / WORK / f"journal-{rank:05d}.jsonl"

    def entries(self) -> Iterator[dict[str, Any]]:
        """The complete lines."""
        with self.path.open("rb") as file:
            yield from (orjson.loads(line) for line in file if line.endswith(b"\n"))

    def rows(self) -> int:
        """Rows of the blocks that are done."""
        return sum(entry["rows"] for entry in self.entries()) if self.path.is_file() else 0

    def resume(self) -> list[dict[str, Any]]:
        """The entries of the blocks that are done; all else is cut off the files."""
        lines = truncate_to_last_line(self.path)
        sizes = {folder: _size(self._part(folder)) for folder in self.folders}
        done, ends = [], Counter[str]()
        for line in lines:
            entry = orjson.loads(line)
            after = ends + Counter({folder: n_bytes for folder, (_, n_bytes) in entry["records"].items()})
            if any(after[folder] > size for folder, size in sizes.items()):
                break  # the machine went down before these bytes were on its disk
            done.append(entry)
            ends = after
        if len(done) < len(lines):
            os.truncate(self.path, sum(map(len, lines[: len(done)])))
        for folder, size in sizes.items():
            if size > ends[folder]:
                os.truncate(self._part(folder), ends[folder])
        return done

    def open_files(self, stack: ExitStack) -> Appending:
        """The files to append to, closed by the stack. A full disk is a `ValueError`, also where closing meets it."""
        stack.enter_context(_disk_errors_as_sentences(self.out_dir))
        for folder in self.folders:
            self._part(folder).parent.mkdir(parents=True, exist_ok=True)
        parts = {folder: stack.enter_context(self._part(folder).open("ab")) for folder in self.folders}
        return Appending(stack.enter_context(self.path.open("ab")), parts)

    def finish(self) -> dict[str, int]:
        """The files become the shards; returns the number of records by folder. To be repeated after a kill."""
        rows, sizes = Counter[str](), Counter[str]()
        for entry in self.entries():
            for folder, (n_rows, n_bytes) in entry["records"].items():
                rows[folder] += n_rows
                sizes[folder] += n_bytes
        for folder in self.folders:
            part, shard = self._part(folder), self.out_dir / folder / shard_name(self.rank)
            shard.parent.mkdir(parents=True, exist_ok=True)
            if part.is_file():
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(shard)
            elif not sizes[folder] and not shard.is_file():
                with atomic_write(shard):
                    pass
            if (found := _size(shard)) != sizes[folder]:
                raise AssertionError(f"{shard}: {found} bytes, but {sizes[folder]} were written")
        return {folder: rows[folder] for folder in self.folders}

    def _part(self, folder: str) -> Path:
        return self.out_dir / WORK / "parts" / folder / shard_name(self.rank)


class Appending:
    """The open files of a journal."""

    def __init__(self, journal: IO[bytes], parts: Mapping[str, IO[bytes]]) -> None:
        self.journal, self.parts = journal, parts

    def append(self, entry: dict[str, Any], records: Mapping[str, list[bytes]]) -> None:
        """Write the records of a block, then its entry."""
        entry["records"] = {folder: (len(lines), sum(map(len, lines))) for folder, lines in records.items()}
        for folder, lines in records.items():
            self.parts[folder].writelines(lines)
            self.parts[folder].flush()
        self.journal.write(orjson.dumps(entry) + b"\n")
        self.journal.flush()


@contextmanager
def _disk_errors_as_sentences(out_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and error.filename is None:  # with a name it is another file's
            raise ValueError(
                f"{out_dir}: the disk is full; free some space and run again: what is finished is kept"
            ) from error
        raise


def write_rows(out_dir: Path, kind: str, journals: Iterable[Journal]) -> Counter[str]:
    """Write dropped.jsonl or failed.jsonl; returns the number of rows by reason."""
    reasons: Counter[str] = Counter()
    with atomic_write(out_dir / f"{kind}.jsonl") as file:
        for row in (row for journal in journals for entry in journal.entries() for row in entry[kind]):
            reasons[row["reason"]] += 1
            file.write(orjson.dumps(row) + b"\n")
    return reasons


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

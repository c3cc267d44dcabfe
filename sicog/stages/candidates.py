"""The candidate sets of several runs (styles, seeds, rounds, checkpoints), one set per query: grouped by id."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from sicog.records import CandidateSet, Dropped
from sicog.stages.scratch import Scratch, id_digest
from sicog.stages.storage import lines_of, row_error_message, shards


def find_runs(patterns: Sequence[str | Path]) -> list[Path]:
    """The run folders that these paths and globs name, each once. Raises `ValueError` when one names none."""
    found: dict[Path, None] = {}
    for pattern in map(str, patterns):
        # A folder whose own name holds brackets or stars is that folder.
        names = [pattern] if Path(pattern).is_dir() else sorted(glob.glob(pattern))  # noqa: PTH207 - may be absolute
        folders = [Path(name) for name in names if Path(name).is_dir()]
        if not folders:
            raise ValueError(f"{pattern!r} names no folder of candidate sets")
        found.update(dict.fromkeys(folders))
    return list(found)


class UnreadableRowError(ValueError):
    """A line that is no candidate set; `row_id` is its id, or the place where it lies."""

    def __init__(self, message: str, row_id: str) -> None:
        super().__init__(message)
        self.row_id = row_id


class RunsSource:
    """The ids of all runs in the order in which they first appear. Where each row lies is held on disk, not in memory.

    A process that is sent this source looks through the runs by itself when it first reads.

    step: when given, an id that has a row that cannot be read comes as `Dropped` of that step, and a row without an id
        by itself, named by file and byte; else they are errors.
    """

    def __init__(self, folders: Sequence[Path], step: str = "") -> None:
        self.step = step
        self._files = [shard for folder in folders for shard in shards(folder)]

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": self._files, "step": self.step}

    @cached_property
    def _places(self) -> Scratch:
        """Tables `rows` (of the runs: digest of the id, file, offset) and `groups` (of equal ids: the first row)."""
        places = Scratch("id, file, offset", self._rows())
        places.execute("create index by_id on rows (id)")
        places.execute("create table groups as select min(rowid) as first from rows group by id order by first")
        return places

    def _rows(self) -> Iterator[tuple[bytes, int, int]]:
        for number, path in enumerate(self._files):
            offset = 0
            for line in lines_of(path):
                yield id_digest(self._id(line, path, offset)), number, offset
                offset += len(line)

    @cached_property
    def _length(self) -> int:
        return int(self._places.execute("select count(*) from groups").fetchone()[0])

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Iterator[CandidateSet | Dropped]:
        """One merged set for each of the ids start..stop."""
        first = "select id from rows where rowid = (select first from groups where rowid = ?)"
        for group in range(start, min(stop, len(self))):
            (digest,) = self._places.execute(first, group + 1).fetchone()
            try:
                yield merge_sets(self._sets(digest))
            except UnreadableRowError as error:
                if not self.step:
                    raise
                yield Dropped(id=error.row_id, step=self.step, reason="unreadable_row", detail=str(error))

    def _id(self, line: bytes, path: Path, offset: int) -> str:
        try:
            return _id(line, path)
        except ValueError:
            if not self.step:
                raise
            return f"{path}:{offset}"  # an id that no other row has

    def find(self, row_id: str) -> CandidateSet | None:
        """The merged set of that id, or None."""
        found = self._sets(id_digest(row_id))
        return merge_sets(found) if found else None

    def _sets(self, digest: bytes) -> list[CandidateSet]:
        """The sets of an id in the order of the runs."""
        places = self._places.execute("select file, offset from rows where id = ? order by rowid", digest)
        return [self._set(number, offset) for number, offset in places.fetchall()]

    def _set(self, number: int, offset: int) -> CandidateSet:
        with self._files[number].open("rb") as file:
            file.seek(offset)
            line = file.readline()
        try:
            return CandidateSet.model_validate_json(line)
        except ValueError as error:
            where = f"{self._files[number].parent.name}/{self._files[number].name} at byte {offset}"
            raise UnreadableRowError(
                f"{self._files[number]} holds a row that is no CandidateSet ({row_error_message(error)})",
                _known_id(line) or where,
            ) from None


def merge_sets(sets: Sequence[CandidateSet]) -> CandidateSet:
    """One set with the candidates of all. Raises `ValueError` where queries differ or a candidate comes twice."""
    first = sets[0]
    asked = [(one.query.task, one.query.images, one.query.question) for one in sets]
    if any(other != asked[0] for other in asked):  # runs may carry other `extra`: the first run's is kept
        raise ValueError(
            f"row {first.id}: the runs were made from different queries (task, images or question differ); "
            f"group only runs of the same input"
        )
    candidates = tuple(candidate for one in sets for candidate in one.candidates)
    keys = [(c.style, c.index, c.seed, c.checkpoint, c.window) for c in candidates]
    if repeated := next((k for k in keys if keys.count(k) > 1), None):
        style, index, seed, checkpoint, _ = repeated
        raise ValueError(
            f"row {first.id}: two candidates have style {style}, index {index}, seed {seed} and checkpoint "
            f"{checkpoint[:12]}; is a run given twice? Runs that shall be pooled need different seeds"
        )
    return CandidateSet(id=first.id, query=first.query, candidates=candidates)


def _id(line: bytes, path: Path) -> str:
    if (row_id := _known_id(line)) is None:
        raise ValueError(f"{path} holds a row without an id; it is no dataset of candidate sets")
    return row_id


def _known_id(line: bytes) -> str | None:
    try:
        return str(orjson.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        return None

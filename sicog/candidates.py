"""The candidate sets of several runs (styles, seeds, rounds, checkpoints), one set per query: grouped by id."""

from __future__ import annotations

import glob
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson

from sicog.records import CandidateSet, Dropped
from sicog.storage import shards


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
    """The ids of all runs in the order in which they first appear.

    Only where each row lies is held in memory, in arrays: some 60 bytes a row, however long its id is.

    step: when given, an id that has a row that cannot be read comes as `Dropped` of that step, and a row without an id
        by itself, named by file and byte; else they are errors.
    """

    def __init__(self, folders: Sequence[Path], step: str = "") -> None:
        self.step = step
        self._files = [shard for folder in folders for shard in shards(folder)]
        ids, numbers, offsets = bytearray(), array("I"), array("Q")
        for number, path in enumerate(self._files):
            with path.open("rb") as file:
                offset = 0
                for line in file:
                    ids += _digest(self._id(line, path, offset))
                    numbers.append(number)
                    offsets.append(offset)
                    offset += len(line)
        self._numbers, self._offsets = numbers, offsets
        ids_N2 = np.frombuffer(ids, dtype=np.uint64).reshape(-1, 2)
        self._rows, self._starts = _grouped(ids_N2)
        self._ids_G2 = ids_N2[self._rows[self._starts[:-1]]]  # of each group
        self._by_id = np.argsort(self._ids_G2[:, 0])
        self._sorted = self._ids_G2[self._by_id, 0]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, start: int, stop: int) -> Iterator[CandidateSet | Dropped]:
        """One merged set for each of the ids start..stop."""
        for group in range(start, min(stop, len(self))):
            try:
                yield self._merged(group)
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
        first, second = np.frombuffer(_digest(row_id), dtype=np.uint64)
        begin, end = (np.searchsorted(self._sorted, first, side=side) for side in ("left", "right"))
        found = (int(group) for group in self._by_id[begin:end] if self._ids_G2[group, 1] == second)
        return next(map(self._merged, found), None)

    def _merged(self, group: int) -> CandidateSet:
        rows = self._rows[self._starts[group] : self._starts[group + 1]].tolist()
        return merged([self._set(self._numbers[i], self._offsets[i]) for i in rows])

    def _set(self, number: int, offset: int) -> CandidateSet:
        with self._files[number].open("rb") as file:
            file.seek(offset)
            line = file.readline()
        try:
            return CandidateSet.model_validate_json(line)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            where = f"{self._files[number].parent.name}/{self._files[number].name} at byte {offset}"
            raise UnreadableRowError(
                f"{self._files[number]} holds a row that is no CandidateSet ({reason})", _known_id(line) or where
            ) from None


def merged(sets: Sequence[CandidateSet]) -> CandidateSet:
    """One set with the candidates of all. Raises `ValueError` where queries differ or a candidate comes twice."""
    first = sets[0]
    asked = [(one.query.task, one.query.images, one.query.question) for one in sets]
    if any(other != asked[0] for other in asked):  # runs may carry other `extra`: the first run's is kept
        raise ValueError(
            f"row {first.id}: the runs were made from different queries (task, images or question differ); "
            f"group only runs of the same input"
        )
    candidates = tuple(candidate for one in sets for candidate in one.candidates)
    keys = [(c.style, c.index, c.seed, c.checkpoint) for c in candidates]
    if repeated := next((k for k in keys if keys.count(k) > 1), None):
        style, index, seed, checkpoint = repeated
        raise ValueError(
            f"row {first.id}: two candidates have style {style}, index {index}, seed {seed} and checkpoint "
            f"{checkpoint[:12]}; is a run given twice? Runs that shall be pooled need different seeds"
        )
    return CandidateSet(id=first.id, query=first.query, candidates=candidates)


def _grouped(ids_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows ordered by group, groups by their first row; and where each group starts there, with the end behind."""
    by_id = np.lexsort((ids_N2[:, 1], ids_N2[:, 0]))  # stable: equal ids keep the order of their rows
    begins = np.ones(len(by_id), dtype=bool)
    begins[1:] = (ids_N2[by_id[1:]] != ids_N2[by_id[:-1]]).any(axis=1)
    first_row = by_id[begins][np.cumsum(begins) - 1]  # of the group that a row of this order is in
    rows = by_id[np.lexsort((by_id, first_row))]
    first_row.sort()
    starts = np.flatnonzero(np.append(True, first_row[1:] != first_row[:-1])) if len(rows) else first_row
    return rows, np.append(starts, len(rows))


def _digest(row_id: str) -> bytes:
    return blake2b(row_id.encode(errors="surrogatepass"), digest_size=16).digest()


def _id(line: bytes, path: Path) -> str:
    if (row_id := _known_id(line)) is None:
        raise ValueError(f"{path} holds a row without an id; it is no dataset of candidate sets")
    return row_id


def _known_id(line: bytes) -> str | None:
    try:
        return str(orjson.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        return None

"""Group the candidates of several runs by id: one candidate set per query, with the candidates of all runs."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import Field

from sicog.config import Config
from sicog.pipeline import run_stage
from sicog.records import CandidateSet, Dropped
from sicog.storage import shards


class GroupConfig(Config):
    """What `sicog group` does.

    inputs: folders of candidate sets, or globs of such folders; the order of ids and of candidates is theirs.
    """

    inputs: tuple[str, ...] = Field(min_length=1)
    out_dir: Path
    block_size: int = Field(default=256, ge=1)


def group(config: GroupConfig) -> Path:
    """Write the grouped dataset; returns its folder. How many candidates a row has may differ.

    Raises `ValueError` for two candidates of the same style, index, seed and checkpoint, and for queries that differ.
    """
    folders = find_runs(config.inputs)
    return run_stage(
        step="group",
        out_dir=config.out_dir,
        source=RunsSource(folders),
        process=_merged_block,
        config=config,
        inputs={f"run-{i}": folder for i, folder in enumerate(folders)},
        block_size=config.block_size,
        max_dropped_share=None,
    )


def find_runs(patterns: Sequence[str]) -> list[Path]:
    """The run folders that these paths and globs name, each once. Raises `ValueError` when one names none."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        # A folder whose own name holds brackets or stars is that folder.
        names = [pattern] if Path(pattern).is_dir() else sorted(glob.glob(pattern))  # noqa: PTH207 - may be absolute
        folders = [Path(name) for name in names if Path(name).is_dir()]
        if not folders:
            raise ValueError(f"{pattern!r} names no folder of candidate sets")
        found.update(dict.fromkeys(folders))
    return list(found)


@dataclass(frozen=True)
class _Parts:
    """The sets of one id, from one or more runs."""

    id: str
    sets: tuple[CandidateSet, ...]


class RunsSource:
    """The ids of all runs in the order in which they first appear; only where each row lies is held in memory."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._files = [shard for folder in folders for shard in shards(folder)]
        self._places: dict[str, list[tuple[int, int]]] = {}
        for number, path in enumerate(self._files):
            with path.open("rb") as file:
                offset = 0
                for line in file:
                    self._places.setdefault(_id(line, path), []).append((number, offset))
                    offset += len(line)
        self._ids = list(self._places)

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, start: int, stop: int) -> Iterator[_Parts | Dropped]:
        """The sets of the ids start..stop."""
        for row_id in self._ids[start:stop]:
            yield _Parts(row_id, tuple(self._set(*place) for place in self._places[row_id]))

    def _set(self, number: int, offset: int) -> CandidateSet:
        with self._files[number].open("rb") as file:
            file.seek(offset)
            line = file.readline()
        try:
            return CandidateSet.model_validate_json(line)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self._files[number]} holds a row that is no CandidateSet ({reason})") from None


def merged(sets: Sequence[CandidateSet]) -> CandidateSet:
    """One set with the candidates of all. Raises `ValueError` where queries differ or a candidate comes twice."""
    first = sets[0]
    if any(other.query != first.query for other in sets[1:]):
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


def _merged_block(rows: Sequence[_Parts]) -> list[list[CandidateSet]]:
    return [[merged(row.sets)] for row in rows]


def _id(line: bytes, path: Path) -> str:
    try:
        return str(orjson.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} holds a row without an id; it is no dataset of candidate sets") from None

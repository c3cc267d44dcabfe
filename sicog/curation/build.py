"""Build the pre-training set (stage 1.5) from kept captions, kept reasoning and further rows: one Example dataset."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, ClassVar

import orjson
from pydantic import Field, ValidationError, model_validator

from sicog.config import Config
from sicog.curation.self_consistency import hashed
from sicog.pipeline import run_stage
from sicog.records import Dropped, Example
from sicog.storage import MANIFEST, read_json, shards, write_json


class BuildSource(Config):
    """One dataset of examples to take rows from, drawn by the seed.

    name: becomes the `source` of its rows.
    count: so many rows; weight: so many times its rows (0.5 for half of them, 2 for each of them twice). At most one.
    """

    name: str = Field(min_length=1)
    path: Path
    count: int | None = Field(default=None, ge=0)
    weight: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_amount(self) -> BuildSource:
        if self.count is not None and self.weight is not None:
            raise ValueError(f"source {self.name}: give count or weight, not both")
        return self

    def rows(self, available: int) -> int:
        """How many rows to take. Raises `ValueError` when `count` asks for more than there are."""
        if self.count is None:
            return available if self.weight is None else int(self.weight * available + 0.5)
        if self.count > available:
            raise ValueError(
                f"source {self.name}: count {self.count}, but {self.path} holds {available} rows; "
                f"lower it, or repeat rows with weight"
            )
        return self.count


class BuildConfig(Config):
    """Config of the build: the sources, and the seed of the draw and of the order."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers"})
    sources: tuple[BuildSource, ...] = Field(min_length=1)
    out_dir: Path
    seed: int = 0
    rows_per_shard: int = Field(default=8192, ge=1)
    workers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _names_differ(self) -> BuildConfig:
        if twice := [name for name, n in Counter(s.name for s in self.sources).items() if n > 1]:
            raise ValueError(f"sources need different names, {', '.join(twice)} is given twice")
        return self


def build(config: BuildConfig) -> Path:
    """Write the dataset `out_dir`, shuffled; its manifest also counts `rows_by_source`. Returns `out_dir`."""
    mixed = MixedSource(config.sources, config.seed)
    run_stage(
        step="build",
        out_dir=config.out_dir,
        source=mixed,
        process=_as_they_are,
        config=config,
        inputs={source.name: source.path for source in config.sources},
        block_size=256,
        rows_per_shard=config.rows_per_shard,
        workers=config.workers,
    )
    manifest = read_json(config.out_dir / MANIFEST)
    if "rows_by_source" not in manifest:
        write_json(config.out_dir / MANIFEST, manifest | {"rows_by_source": mixed.rows_by_source()})
    return config.out_dir


def _as_they_are(block: Sequence[Example]) -> list[tuple[Example]]:
    return [(row,) for row in block]


@dataclass(frozen=True, slots=True)
class _Place:
    """A row to take: its id, where it is (source, shard of it, byte offset), and which repetition this is (from 0)."""

    id: str
    source: int
    shard: int
    offset: int
    repetition: int = 0


class MixedSource:
    """The rows of all sources in seeded order. Only ids and places are held in memory; rows are read when due.

    An id that several sources have becomes `NAME:id` in each of them; the second time a row is taken it is `id#2`.
    """

    def __init__(self, sources: Sequence[BuildSource], seed: int) -> None:
        self.sources = sources
        self.paths = [shards(source.path) for source in sources]
        keyed: list[tuple[int, _Place]] = []
        in_sources: Counter[str] = Counter()
        for number, source in enumerate(sources):
            places = self._index(number)
            in_sources.update(place.id for place in places)
            keyed += _drawn(places, source.rows(len(places)), seed, source.name)
        keyed.sort(key=lambda pair: pair[0])
        self.places = [self._unique(place, in_sources) for _, place in keyed]
        if twice := [row_id for row_id, n in Counter(p.id for p in self.places).items() if n > 1]:
            raise ValueError(f"ids cannot be made unique: {twice[0]!r} comes up twice; rename a source")

    def _index(self, number: int) -> list[_Place]:
        places: list[_Place] = []
        seen: set[str] = set()
        for shard, path in enumerate(self.paths[number]):
            offset = 0
            with path.open("rb") as file:
                for line_number, line in enumerate(file, 1):
                    row_id = _id_of(line, f"{path}:{line_number}")
                    if row_id in seen:
                        raise ValueError(f"{path}:{line_number}: id {row_id!r} is twice in {self.sources[number].path}")
                    seen.add(row_id)
                    places.append(_Place(row_id, number, shard, offset))
                    offset += len(line)
        return places

    def _unique(self, place: _Place, in_sources: Counter[str]) -> _Place:
        row_id = f"{self.sources[place.source].name}:{place.id}" if in_sources[place.id] > 1 else place.id
        return replace(place, id=f"{row_id}#{place.repetition + 1}" if place.repetition else row_id)

    def __len__(self) -> int:
        return len(self.places)

    def rows_by_source(self) -> dict[str, int]:
        """The number of rows that each source gives."""
        counts = Counter(place.source for place in self.places)
        return {source.name: counts[number] for number, source in enumerate(self.sources)}

    def read(self, start: int, stop: int) -> Iterator[Example | Dropped]:
        """Rows start..stop of the mix."""
        with ExitStack() as stack:
            files: dict[Path, BinaryIO] = {}
            for place in self.places[start:stop]:
                path = self.paths[place.source][place.shard]
                if path not in files:
                    files[path] = stack.enter_context(path.open("rb"))
                files[path].seek(place.offset)
                yield self._row(files[path].readline(), place, path)

    def _row(self, line: bytes, place: _Place, path: Path) -> Example:
        try:
            row = Example.model_validate_json(line)
        except ValidationError as error:
            raise ValueError(f"{path}: row {place.id} is not an Example ({error.errors()[0]['msg']})") from None
        return row.model_copy(update={"id": place.id, "source": self.sources[place.source].name})


def _drawn(places: Sequence[_Place], rows: int, seed: int, name: str) -> Iterator[tuple[int, _Place]]:
    """`rows` of the places, each with the hash that orders the mix: all of them as often as they fit, then a draw."""
    repetition = 0
    while rows > 0:
        keyed = [(hashed(seed, name, str(repetition), place.id), place) for place in places]
        for key, place in heapq.nsmallest(rows, keyed, key=lambda pair: pair[0]):
            yield hashed(key, "order"), replace(place, repetition=repetition)
        rows, repetition = rows - len(places), repetition + 1


def _id_of(line: bytes, where: str) -> str:
    try:
        row_id = orjson.loads(line)["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        row_id = None
    if not isinstance(row_id, str):
        raise ValueError(f"{where} is not an Example (no text id); was this folder written by another step?")
    return row_id

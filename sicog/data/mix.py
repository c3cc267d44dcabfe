"""`sicog mix`: the rows of a mixture, written once as a dataset of ours with a manifest. Rows stream.

The grammar of sources is mixture.py's. Rows keep their ids and come in the order of the sources; training shuffles.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from sicog.config import Config
from sicog.data.mixture import Source, taken
from sicog.formats import FileSource, read_llava
from sicog.pipeline import FolderSource, run_stage
from sicog.records import Dropped, Example
from sicog.storage import MANIFEST, read_json, write_json


class MixConfig(Config):
    """The sources of a mixture, the seed of their draws, and the dataset folder to write."""

    volatile: ClassVar[frozenset[str]] = frozenset({"max_dropped_share"})
    sources: tuple[Source, ...] = Field(min_length=1)
    out_dir: Path
    seed: int = 0
    max_dropped_share: float = 0.05  # of users' rows that cannot be read


def mix(config: MixConfig) -> Path:
    """Write the dataset `out_dir` and return it; its manifest also says how many rows each source gave and left."""
    parts = [_Part(source, f"{config.seed}:{number}") for number, source in enumerate(config.sources)]
    run_stage(
        step="mix",
        out_dir=config.out_dir,
        source=_Mix(parts),
        process=_as_they_are,
        config=config,
        inputs={f"{number}:{source.path.name}": source.path for number, source in enumerate(config.sources)},
        block_size=256,
        rows_per_shard=8192,
        max_dropped_share=config.max_dropped_share,
    )
    manifest = read_json(config.out_dir / MANIFEST)
    if "sources" not in manifest:
        write_json(config.out_dir / MANIFEST, manifest | {"sources": [part.counts() for part in parts]})
    return config.out_dir


def _as_they_are(block: Sequence[Example]) -> list[tuple[Example]]:
    return [(row,) for row in block]


@dataclass
class _Part:
    """One source: which of its rows are taken. Only their places are held in memory."""

    source: Source
    seed: str

    @cached_property
    def rows(self) -> FolderSource[Example] | FileSource[Example]:
        path = self.source.path
        if path.is_dir():
            return FolderSource(path, Example)
        if path.suffix in (".json", ".jsonl"):
            return read_llava(path)
        raise ValueError(f"{path} is no data source: give a dataset folder or a .json or .jsonl file")

    @cached_property
    def _broken(self) -> array[int]:
        """The places of rows that cannot be read; a dataset of ours has none."""
        if isinstance(self.rows, FolderSource):
            return array("q")
        return array("q", (i for i, row in enumerate(self.rows) if isinstance(row, Dropped)))

    @cached_property
    def _taken(self) -> array[int]:
        """The places of the rows to take, in order."""
        usable = len(self.rows) - len(self._broken)
        chosen = sorted(taken(self.source, usable, self.seed))
        if not self._broken:
            return array("q", chosen)
        broken = set(self._broken)
        places = array("q", (i for i in range(len(self.rows)) if i not in broken))
        return array("q", (places[i] for i in chosen))

    @cached_property
    def places(self) -> array[int]:
        """Rows to take and rows to report as dropped, in order."""
        return array("q", sorted(chain(self._taken, self._broken)))

    def read(self, start: int, stop: int) -> Iterator[Example | Dropped]:
        """Number start..stop of the places. A place that is there twice gives its row twice."""
        places = self.places[start:stop]
        wanted = iter(places)
        due = next(wanted, None)
        for place, row in enumerate(self.rows.read(places[0], places[-1] + 1), places[0]) if places else ():
            while due == place:
                yield row
                due = next(wanted, None)

    def counts(self) -> dict[str, object]:
        """For the manifest."""
        n, dropped = len(self.rows), len(self._broken)
        distinct = len(set(self._taken))
        return {
            "path": str(self.source.path), "rows": n, "taken": len(self._taken), "left": n - dropped - distinct,
            "dropped": dropped,
        }  # fmt: skip


@dataclass
class _Mix:
    """The rows of all parts, one part after the other."""

    parts: Sequence[_Part]

    def __len__(self) -> int:
        return sum(len(part.places) for part in self.parts)

    def read(self, start: int, stop: int) -> Iterator[Example | Dropped]:
        """Rows start..stop of the mixture."""
        first = 0
        for part in self.parts:
            n = len(part.places)
            if first < stop and first + n > start:
                yield from part.read(max(0, start - first), min(n, stop - first))
            first += n

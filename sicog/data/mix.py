"""`sicog mix`: write the rows of a mixture as one of our datasets, with a manifest. Rows stream.

The grammar of sources is that of amounts.py. Random choices are those of mixture.py: training on the same sources and
seed uses the same rows. Rows keep their ids and the order of the sources; training shuffles them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from sicog.config import Config
from sicog.data.amounts import WhenShort, require_total
from sicog.data.mixture import Sources, chosen_rows_of_all
from sicog.data.rows.cache import cache_folder
from sicog.data.rows.table import open_table
from sicog.records import Dropped, Example
from sicog.stages.config import StageOptions
from sicog.stages.runner import Stage, run_stage
from sicog.stages.storage import MANIFEST, read_json, write_json


class MixConfig(Config):
    """Sources to mix into one dataset."""

    volatile: ClassVar[frozenset[str]] = frozenset({"max_dropped_share", "cache_dir"})
    added: ClassVar[frozenset[str]] = frozenset({"total", "when_short"})
    sources: Sources = Field(min_length=1)
    """The sources of the mixture."""
    out_dir: Path
    total: int | None = Field(default=None, ge=1)
    """Rows of the mixture, where sources give shares of it."""
    when_short: WhenShort | None = None
    """What a source with fewer rows than its count or share is: an `error` (null too), or it gives all it has
    (`take_all`)."""
    seed: int = 0
    max_dropped_share: float = 0.05
    """The run stops if a larger share of users' rows cannot be read."""
    cache_dir: Path | None = None

    @model_validator(mode="after")
    def _check_total(self) -> MixConfig:
        require_total(self.sources, self.total)
        return self


def mix(config: MixConfig) -> Path:
    """Write the dataset `out_dir` and return it. Its manifest counts the used and unused rows of each source."""
    mixed = _Mix(config)
    run_stage(
        Stage(
            step="mix",
            out_dir=config.out_dir,
            source=mixed,
            process=_rows_unchanged,
            inputs={f"{number}:{source.path.name}": source.path for number, source in enumerate(config.sources)},
        ),
        config,
        StageOptions.of(config, block_size=256, rows_per_shard=8192),
    )
    manifest = read_json(config.out_dir / MANIFEST)
    if "sources" not in manifest:
        write_json(config.out_dir / MANIFEST, manifest | {"sources": mixed.counts()})
    return config.out_dir


def _rows_unchanged(block: Sequence[Example]) -> list[tuple[Example]]:
    return [(row,) for row in block]


class _Mix:
    """The chosen rows, source by source, then the unreadable ones. Memory holds one number for each row."""

    def __init__(self, config: MixConfig) -> None:
        cache = cache_folder(config.cache_dir)
        self.sources = config.sources
        self.tables = [open_table(source.path, cache) for source in config.sources]
        lengths, short = list(map(len, self.tables)), config.when_short or "error"
        found = chosen_rows_of_all(self.sources, lengths, config.seed, config.total, short)
        self.chosen, self.left = [rows for rows, _ in found], [left for _, left in found]
        self.starts = np.cumsum([0, *(len(rows) for rows in self.chosen)])

    def __len__(self) -> int:
        return int(self.starts[-1]) + sum(table.n_dropped for table in self.tables)

    def read(self, start: int, stop: int) -> Iterator[Example | Dropped]:
        """Rows start..stop of the mixture."""
        n_chosen = int(self.starts[-1])
        for position in range(start, min(stop, n_chosen)):
            number = int(np.searchsorted(self.starts, position, side="right")) - 1
            yield self.tables[number].named_row(int(self.chosen[number][position - self.starts[number]]))
        dropped = chain.from_iterable(table.dropped_rows() for table in self.tables)
        yield from islice(dropped, max(0, start - n_chosen), max(0, stop - n_chosen))

    def counts(self) -> list[dict[str, object]]:
        """The counts of each source, for the manifest."""
        return [
            {
                "path": str(s.path),
                "rows": len(t) + t.n_dropped,
                "taken": len(rows),
                "left": left,
                "dropped": t.n_dropped,
            }
            for s, t, rows, left in zip(self.sources, self.tables, self.chosen, self.left, strict=True)
        ]

"""Select the rows of a mixture, with equal results on every rank and machine. amounts.py holds the grammar of sources.

A path `prefix{a,b}.json` means prefixa.json and prefixb.json, two sources with the same keys. Random choices use the
seed and the source's index in the list, so all ranks and restarts select the same rows. For w = k + f with a whole k,
every row comes k times in order, then a random share f of the rows, in order.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from sicog.config import Config, load_yaml, validate
from sicog.data.amounts import MixedSource, WhenShort, amount_to_take, amounts, require_total
from sicog.records import Dropped

if TYPE_CHECKING:
    from sicog.data.rows.table import RowTable
    from sicog.data.selection import Selection


class Source(MixedSource):
    """Rows of one source of a mixture."""

    added: ClassVar[frozenset[str]] = frozenset({"at_most", "count", "share"})
    take: str = "all"
    """Which of the rows: `all`, `first:N`, `end:N`, or `random:N`, where N is a number of rows or a share such as 10%.
    """
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often each row is used: 2 is twice, 2.25 is twice and a random quarter once more."""


def _expand_sources(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    return tuple(
        source if path == source.path else source.model_copy(update={"path": path})
        for source in sources
        for path in _expand_braces(source.path)
    )


# The sources of a config, one for each file: `prefix{a,b}.json` becomes two.
Sources = Annotated[tuple[Source, ...], AfterValidator(_expand_sources)]


class MixtureFile(Config):
    """A YAML file with sources."""

    sources: Sources

    @model_validator(mode="after")
    def _check_sources(self) -> MixtureFile:
        require_total(self.sources, None)
        return self


@dataclass(frozen=True)
class Mixture:
    """One table for each source, the selected rows in order, and the number of rows left out."""

    tables: tuple[RowTable, ...]
    selection: Selection
    left: int

    def dropped_rows(self) -> Iterator[Dropped]:
        """The unreadable rows of all sources."""
        return (row for table in self.tables for row in table.dropped_rows())

    @property
    def n_dropped(self) -> int:
        """The number of unreadable rows."""
        return sum(table.n_dropped for table in self.tables)


def read_mixture(sources: Sequence[Source], seed: int, cache: Path) -> Mixture:
    """Open all sources. Random choices depend only on the seed and the source's index in the list."""
    from sicog.data.rows.table import open_table
    from sicog.data.selection import Selection

    tables = tuple(open_table(source.path, cache) for source in sources)
    found = chosen_rows_of_all(sources, list(map(len, tables)), seed)
    chosen, left = [rows for rows, _ in found], sum(left for _, left in found)
    numbers = np.repeat(np.arange(len(tables), dtype=np.int32), [len(rows) for rows in chosen])
    return Mixture(tables, Selection(numbers, np.concatenate([*chosen, np.empty(0, dtype=np.int64)])), left)


def load_sources(path: Path) -> tuple[Source, ...]:
    """The sources of a path.

    Those of a YAML mixture (ours, or LLaVA's `datasets`); the paths of `prefix{a,b,c}.json`; else the path alone.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        return tuple(Source(path=one) for one in _expand_braces(path))
    values = load_yaml(path)
    if "datasets" in values:
        values = {**values, "sources": [_convert_llava_entry(row, path) for row in values["datasets"]]}
        del values["datasets"]
    return validate(MixtureFile, values, str(path)).sources


def _convert_llava_entry(row: dict[str, str], where: Path) -> dict[str, str]:
    if not isinstance(row, dict) or "json_path" not in row:
        raise ValueError(f"{where}: each entry of 'datasets' needs a 'json_path', got {row!r}")
    known = {"json_path": "path", "sampling_strategy": "take"}
    return {known.get(key, key): value for key, value in row.items()}


def chosen_rows(source: Source, n_rows: int, seed: str) -> tuple[np.ndarray, int]:
    """int64, those of a source's `n_rows` usable rows that it gives; and how many are left out."""
    (found,) = _choose_rows([source], [n_rows], [seed], None, "error")
    return found


def chosen_rows_of_all(
    sources: Sequence[Source],
    n_rows: Sequence[int],
    seed: int,
    total: int | None = None,
    when_short: WhenShort = "error",
) -> list[tuple[np.ndarray, int]]:
    """The same of all sources of a mixture, with `total` rows where some give shares of it."""
    return _choose_rows(sources, n_rows, [f"{seed}:{number}" for number in range(len(sources))], total, when_short)


def _choose_rows(
    sources: Sequence[Source], n_rows: Sequence[int], seeds: Sequence[str], total: int | None, when_short: WhenShort
) -> list[tuple[np.ndarray, int]]:
    rows = [_taken_rows(source, n, seed) for source, n, seed in zip(sources, n_rows, seeds, strict=True)]
    wanted = amounts(sources, list(map(len, rows)), total, when_short)
    given = [_repeat_rows(of, n, f"{seed}:weight") for of, n, seed in zip(rows, wanted, seeds, strict=True)]
    return [(of, n - min(len(taken), len(of))) for of, taken, n in zip(given, rows, n_rows, strict=True)]


def _taken_rows(source: Source, n_rows: int, seed: str) -> np.ndarray:
    """int64, the rows that `take` chooses, in order."""
    which, n = amount_to_take(source, n_rows)
    if which == "random":
        return _sample_rows(n_rows, n, seed)
    return np.arange(n) if which == "first" else np.arange(n_rows - n, n_rows)


def _repeat_rows(rows: np.ndarray, wanted: int, seed: str) -> np.ndarray:
    """`wanted` of the rows: all of them as often as they fit, then a draw, each time in order."""
    whole, more = divmod(wanted, len(rows)) if len(rows) else (0, 0)
    return np.concatenate([np.tile(rows, whole), rows[_sample_rows(len(rows), more, seed)]])


def _sample_rows(n_rows: int, n: int, seed: str) -> np.ndarray:
    """int64 [n], ascending: n random numbers below `n_rows`."""
    return np.array(sorted(random.Random(seed).sample(range(n_rows), n)), dtype=np.int64)


def _expand_braces(path: Path) -> list[Path]:
    """`prefix{a,b}.json` as prefixa.json and prefixb.json, unless a file with exactly this name exists."""
    match = re.fullmatch(r"([^{}]*)\{([^{}]*)\}([^{}]*)", str(path))
    if match is None or path.exists():
        return [path]
    before, names, after = match.groups()
    return [Path(f"{before}{name.strip()}{after}") for name in names.split(",")]

"""Select rows from sources: the grammar of mixtures, with equal results on every rank and machine.

sources:
  - {path: captions/, take: all}            one of our dataset folders
  - {path: answers.jsonl, take: first:5000} a user's LLaVA or ShareGPT file
  - {path: text.json, take: random:20%}     N or N% of the rows; also end:N
  - {path: rare.parquet, weight: 2.5}       all selected rows twice, and a random half of them once more

A path `prefix{a,b}.json` means prefixa.json and prefixb.json, two sources with the same take and weight.
`take` selects among the readable rows; `weight` then repeats or thins the selected rows. For w = k + f with a whole k,
every row comes k times in order, then a random share f of the rows (rounded up), in order. Both use the seed and the
source's index in the list, so all ranks and restarts select the same rows.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import AfterValidator, Field, field_validator

from sicog.config import Config, load_yaml, validate
from sicog.records import Dropped

if TYPE_CHECKING:
    from sicog.data.rows.table import RowTable
    from sicog.data.selection import Selection

_TAKE = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")


class Source(Config):
    """Rows of one source of a mixture."""

    of_rows: ClassVar[tuple[str, ...]] = ("path",)
    path: Path
    """A dataset folder, a folder of shards, or a file."""
    take: str = "all"
    """Which of the rows: `all`, `first:N`, `end:N`, or `random:N`, where N is a number of rows or a share such as 10%.
    """
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often each row is used: 2 is twice, 2.25 is twice and a random quarter once more."""

    @field_validator("take")
    @classmethod
    def _check_take(cls, take: str) -> str:
        _parse_take(take)
        return take


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
    chosen, left = [], 0
    for number, (source, table) in enumerate(zip(sources, tables, strict=True)):
        rows, left_out = chosen_rows(source, len(table), f"{seed}:{number}")
        chosen.append(rows)
        left += left_out
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
        values = {**values, "sources": [_from_llava(row, path) for row in values["datasets"]]}
        del values["datasets"]
    return validate(MixtureFile, values, str(path)).sources


def _from_llava(row: dict[str, str], where: Path) -> dict[str, str]:
    if not isinstance(row, dict) or "json_path" not in row:
        raise ValueError(f"{where}: each entry of 'datasets' needs a 'json_path', got {row!r}")
    known = {"json_path": "path", "sampling_strategy": "take"}
    return {known.get(key, key): value for key, value in row.items()}


def _parse_take(take: str) -> tuple[str, float, bool]:
    """(which rows, number, whether the number is a percentage)."""
    if take == "all":
        return "first", 100.0, True
    if not (match := _TAKE.fullmatch(take)):
        raise ValueError(f"take must be all, first:N, end:N or random:N, N a number of rows or N%, got {take!r}")
    which, number, percent = match.group(1), float(match.group(2)), bool(match.group(3))
    if number <= 0 or (percent and number > 100) or (not percent and number != int(number)):
        raise ValueError(f"take {take!r}: N must be a whole number of rows above 0, or a share up to 100%")
    return which, number, percent


def chosen_rows(source: Source, n_rows: int, seed: str) -> tuple[np.ndarray, int]:
    """(int64 selected rows, number of rows left out) of a source with `n_rows` usable rows, by `take` and `weight`."""
    rows = _taken_rows(source, n_rows, seed)
    weighted = _weighted_rows(rows, source.weight, f"{seed}:weight")
    return weighted, n_rows - (len(rows) if source.weight >= 1 else len(weighted))


def _taken_rows(source: Source, n_rows: int, seed: str) -> np.ndarray:
    """int64, the rows that `take` selects, in order."""
    which, number, percent = _parse_take(source.take)
    n = math.ceil(number * n_rows / 100) if percent else int(number)
    if n > n_rows:
        raise ValueError(f"{source.path} has only {n_rows} usable rows, too few for take {source.take!r}")
    if which == "random":
        return _sample_rows(n_rows, n, seed)
    return np.arange(n) if which == "first" else np.arange(n_rows - n, n_rows)


def _weighted_rows(rows: np.ndarray, weight: float, seed: str) -> np.ndarray:
    whole = int(weight)
    n_more = math.ceil((weight - whole) * len(rows) - 1e-9)  # weight 1.1 of 10 rows adds one row, not two
    return np.concatenate([np.tile(rows, whole), rows[_sample_rows(len(rows), n_more, seed)]])


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

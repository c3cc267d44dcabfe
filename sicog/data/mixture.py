"""The one grammar of mixing: which rows of which sources make a data set, the same on every rank and every machine.

sources:
  - {path: captions/, take: all}            one of our dataset folders
  - {path: answers.jsonl, take: first:5000} a user's LLaVA or ShareGPT file
  - {path: text.json, take: random:20%}     N or N% of the rows; also end:N
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import field_validator

from sicog.config import Config, load_yaml, validate
from sicog.formats import read_llava
from sicog.records import Dropped, Example
from sicog.storage import read_records

_TAKE = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")


class Source(Config):
    """A dataset folder of ours or a user's .json / .jsonl file, and the part of its usable rows to take."""

    path: Path
    take: str = "all"

    @field_validator("take")
    @classmethod
    def _known(cls, take: str) -> str:
        _parse_take(take)
        return take


class MixtureFile(Config):
    """A YAML file that holds sources."""

    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Mixture:
    """Examples in the order of the sources, the rows that could not be read, and how many were left by `take`."""

    examples: list[Example]
    dropped: list[Dropped]
    left: int


def read_mixture(sources: Sequence[Source], seed: int) -> Mixture:
    """Read all sources. `random` depends on the seed and the source's place in the list alone."""
    examples: list[Example] = []
    dropped: list[Dropped] = []
    left = 0
    for number, source in enumerate(sources):
        rows = _read_source(source.path)
        usable = [row for row in rows if isinstance(row, Example)]
        chosen = taken(source, len(usable), f"{seed}:{number}")
        examples.extend(usable[i] for i in chosen)
        dropped.extend(row for row in rows if isinstance(row, Dropped))
        left += len(usable) - len(chosen)
    return Mixture(examples, dropped, left)


def load_sources(path: Path) -> tuple[Source, ...]:
    """The sources that a path stands for: those of a YAML mixture (ours, or LLaVA's `datasets`), else the path."""
    if path.suffix not in (".yaml", ".yml"):
        return (Source(path=path),)
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


def _read_source(path: Path) -> list[Example | Dropped]:
    if path.is_dir():
        return list(read_records(path, Example))
    if path.suffix in (".json", ".jsonl"):
        return list(read_llava(path))
    raise ValueError(f"{path} is no data source: give a dataset folder, a .json or .jsonl file, or a .yaml mixture")


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


def taken(source: Source, n_rows: int, seed: str) -> Sequence[int]:
    """Which of a source's `n_rows` usable rows are taken. Raises `ValueError` when it has too few."""
    which, number, percent = _parse_take(source.take)
    n = math.ceil(number * n_rows / 100) if percent else int(number)
    if n > n_rows:
        raise ValueError(f"{source.path} has {n_rows} usable rows, fewer than take {source.take!r} asks for")
    if which == "random":
        return sorted(random.Random(seed).sample(range(n_rows), n))
    return range(n) if which == "first" else range(n_rows - n, n_rows)

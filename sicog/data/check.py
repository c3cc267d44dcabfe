"""`sicog data check`: read all rows and images once, in parallel, and say what training would find.

With a checkpoint the rows are measured as training measures them, and kept in the cache: training then begins at once.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table

from sicog.config import Config
from sicog.console import stdout_console
from sicog.data.cache import cache_folder
from sicog.data.config import DataConfig
from sicog.data.image_folder import ImageFolder
from sicog.data.measure import Measure, TokenMeasure, WordMeasure
from sicog.data.mixture import Mixture, read_mixture
from sicog.data.mixture_rows import UsableRows, measure_mixture
from sicog.data.progress import shown
from sicog.records import Dropped
from sicog.storage import write_json

_IDS_SHOWN = 5
_BAR = 40


class CheckConfig(Config):
    """What is checked: `data`, `slicing`, `max_length` and `seed` as of `sicog train`.

    checkpoint: whose processor measures tokens; without one, words are counted, and views as the full-size model's.
    """

    data: DataConfig
    checkpoint: Path | None = None
    slicing: bool = True
    max_length: int = Field(default=4096, gt=0)
    seed: int = Field(default=42, ge=0)


def check(config: CheckConfig, out: Path | None = None) -> bool:
    """Print what the data holds, and write it to `out` as JSON. True when every row can be used.

    Raises `ValueError` when the data cannot be read at all.
    """
    cache = cache_folder(config.data.cache_dir)
    mixture = read_mixture(config.data.chosen_sources(), config.seed, cache)
    data = config.data
    images = ImageFolder(data.image_folder, data.image_roots, check=data.check_images, cache=cache)
    unit, measure, max_length = _measure(config)
    usable = measure_mixture(mixture, measure, images, max_length=max_length, cache=cache)
    report = _report(mixture, usable, unit)
    _print(report, stdout_console())
    if out is not None:
        write_json(out, report)
    return not report["dropped"]


def _measure(config: CheckConfig) -> tuple[str, Measure, int]:
    if config.checkpoint is None:
        from sicog.model.image_processing import SicogImageProcessor

        # Words are not tokens: max_length says nothing of them.
        return "words", WordMeasure(SicogImageProcessor(), config.slicing), int(np.iinfo(np.int32).max)
    from sicog.model.checkpoints import read_processor

    return "tokens", TokenMeasure(read_processor(str(config.checkpoint)), config.slicing), config.max_length


def _report(mixture: Mixture, usable: UsableRows, unit: str) -> dict[str, Any]:
    sources = [_source(mixture, usable, number) for number in range(len(mixture.tables))]
    drops: dict[str, dict[str, Any]] = {}
    for drop in usable.dropped():
        _add(drops, drop)
    return {
        "rows_in": len(mixture.selection) + mixture.n_dropped,
        "rows_usable": len(usable.selection),
        "left_out": mixture.left,
        "sources": sources,
        unit: _histogram(usable.lengths.tokens),
        "views": _histogram(usable.lengths.views[usable.lengths.views > 0]),
        "dropped": dict(sorted(drops.items(), key=lambda item: -item[1]["rows"])),
    }


def _source(mixture: Mixture, usable: UsableRows, number: int) -> dict[str, Any]:
    table = mixture.tables[number]
    chosen = mixture.selection.row[mixture.selection.table == number]
    images = turns = texts = 0
    for index in shown(chosen.tolist(), f"counting {table.source.path.name}", len(chosen)):
        example = table.row(index)[0]
        images += len(example.images)
        turns += len(example.turns)
        texts += not example.images
    return {
        "path": str(table.source.path),
        "rows": len(chosen) + table.n_dropped,
        "usable": int((usable.selection.table == number).sum()),
        "text_only": texts,
        "images": images,
        "turns": turns,
    }


def _add(drops: dict[str, dict[str, Any]], drop: Dropped) -> None:
    found = drops.setdefault(drop.reason, {"rows": 0, "first": []})
    found["rows"] += 1
    if len(found["first"]) < _IDS_SHOWN:
        found["first"].append({"id": drop.id, "detail": drop.detail})


def _histogram(values: np.ndarray) -> dict[str, Any]:
    """Counts by powers of two: `bins` are [from, below, rows]."""
    if not len(values):
        return {"total": 0, "bins": []}
    exponents = Counts(np.floor(np.log2(np.maximum(values, 1))).astype(int).tolist())
    bins = [[2**k, 2 ** (k + 1), exponents[k]] for k in range(min(exponents), max(exponents) + 1)]
    median = float(np.median(values))
    return {"total": int(values.sum()), "median": median, "longest": int(values.max()), "bins": bins}


def _print(report: dict[str, Any], console: Console) -> None:
    table = Table("source", "rows", "usable", "text only", "images", "turns")
    for source in report["sources"]:
        table.add_row(*(str(source[key]) for key in ("path", "rows", "usable", "text_only", "images", "turns")))
    console.print(table)
    for what in ("tokens", "words", "views"):
        if (found := report.get(what)) and found["total"]:
            console.print(f"{what} a row: median {found['median']:g}, longest {found['longest']}, all {found['total']}")
            _print_bins(found["bins"], console)
    for reason, found in report["dropped"].items():
        console.print(f"[bold]{reason}[/]: {found['rows']} rows, such as", highlight=False)
        for drop in found["first"]:
            console.print(f"  {drop['id']}: {drop['detail']}", markup=False, highlight=False, soft_wrap=True)
    n, usable, left = report["rows_in"], report["rows_usable"], report["left_out"]
    console.print(f"{usable} of {n} rows can be used" + (f"; {left} are left out by take or weight" if left else ""))


def _print_bins(bins: Sequence[Iterable[int]], console: Console) -> None:
    most = max(rows for _, _, rows in bins)
    for start, end, rows in bins:
        bar = "#" * (-(-rows * _BAR // most))
        console.print(f"  {start:>7} to {end - 1:<7} {rows:>9} {bar}", markup=False, highlight=False)

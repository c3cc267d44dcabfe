"""`sicog data check`: read all rows and images once, in parallel, and say what a run would find.

With a checkpoint the rows are measured as training measures them, and kept in the cache: training then begins at once.
Other rows than those of training are known by their keys, and read as the command that is for them reads them.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table

from sicog.bar import shown
from sicog.config import Config
from sicog.console import stdout_console
from sicog.data.check_kinds import by_reason, report_of_kind
from sicog.data.config import DataConfig
from sicog.data.image_folder import ImageFolder
from sicog.data.measure import Measure, TokenMeasure, WordMeasure
from sicog.data.mixture import Mixture, read_mixture
from sicog.data.mixture_rows import UsableRows, measure_mixture
from sicog.data.rows.cache import cache_folder
from sicog.data.rows.row_kinds import EXAMPLES, kind_of
from sicog.model.image_plan import ImagePlan
from sicog.stages.storage import write_json

_COLUMNS = ("path", "rows", "usable", "text_only", "images", "turns")
_BAR = 40


class CheckConfig(Config):
    """What is checked."""

    also: ClassVar[Mapping[str, str]] = {"image_folder": "data.image_folder"}
    data: DataConfig
    """The rows, as of `sicog train`."""
    checkpoint: Path | None = None
    """Its processor measures tokens; null: words are counted, and views as the full-size model's."""
    slicing: bool = True
    """Whether images are cut into slices; false: the thumbnail alone."""
    max_length: int = Field(default=4096, gt=0)
    """Tokens of a row at most, with the features of its images."""
    seed: int = Field(default=42, ge=0)
    """Seed of the draws of a mixture."""


def check(config: CheckConfig, out: Path | None = None) -> bool:
    """Print what the data holds, and write it to `out` as JSON. True when there are rows and every row can be used.

    Rows that are not to be trained on (unlabelled ones, pairs, captions ...) are read as the command for them would.
    Raises `ValueError` when the data cannot be read at all, or the image folder does not exist.
    """
    cache, data = cache_folder(config.data.cache_dir), config.data
    sources = data.chosen_sources()
    images = ImageFolder(data.image_folder, data.image_roots, check=data.check_images, cache=cache)
    kind = kind_of([source.path for source in sources])
    if kind is EXAMPLES:
        mixture = read_mixture(sources, config.seed, cache)
        unit, measure, max_length = _measure(config)
        usable = measure_mixture(mixture, measure, images, max_length=max_length, cache=cache)
        report = _report(mixture, usable, unit)
    else:
        report = report_of_kind(sources, kind, images, config.seed)
    _print(report, stdout_console())
    if out is not None:
        write_json(out, report)
    return bool(report["rows_in"]) and not report["dropped"]


def _measure(config: CheckConfig) -> tuple[str, Measure, int]:
    if config.checkpoint is None:
        # Words are not tokens: max_length says nothing of them.
        return "words", WordMeasure(ImagePlan(), config.slicing), int(np.iinfo(np.int32).max)
    from sicog.model.checkpoints import read_processor

    return "tokens", TokenMeasure(read_processor(str(config.checkpoint)), config.slicing), config.max_length


def _report(mixture: Mixture, usable: UsableRows, unit: str) -> dict[str, Any]:
    sources = [_source(mixture, usable, number) for number in range(len(mixture.tables))]
    return {
        "kind": EXAMPLES.name,
        "read_by": EXAMPLES.read_by,
        "rows_in": len(mixture.selection) + mixture.n_dropped,
        "rows_usable": len(usable.selection),
        "left_out": mixture.left,
        "sources": sources,
        unit: _histogram(usable.lengths.tokens),
        "views": _histogram(usable.lengths.views[usable.lengths.views > 0]),
        "dropped": by_reason(usable.dropped()),
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


def _histogram(values: np.ndarray) -> dict[str, Any]:
    """Counts by powers of two: `bins` are [from, below, rows]."""
    if not len(values):
        return {"total": 0, "bins": []}
    exponents = Counts(np.floor(np.log2(np.maximum(values, 1))).astype(int).tolist())
    bins = [[2**k, 2 ** (k + 1), exponents[k]] for k in range(min(exponents), max(exponents) + 1)]
    median = float(np.median(values))
    return {"total": int(values.sum()), "median": median, "longest": int(values.max()), "bins": bins}


def _print(report: dict[str, Any], console: Console) -> None:
    keys = [key for key in _COLUMNS if all(key in source for source in report["sources"])]
    table = Table(*("source" if key == "path" else key.replace("_", " ") for key in keys))
    for source in report["sources"]:
        table.add_row(*(str(source[key]) for key in keys))
    console.print(table)
    console.print(f"read as {report['kind']}, for {report['read_by']}", markup=False, highlight=False)
    for what in ("tokens", "words", "views"):
        if (found := report.get(what)) and found["total"]:
            console.print(f"{what} a row: median {found['median']:g}, longest {found['longest']}, all {found['total']}")
            _print_bins(found["bins"], console)
    for reason, found in report["dropped"].items():
        console.print(f"[bold]{reason}[/]: {found['rows']} rows, such as", highlight=False)
        for drop in found["first"]:
            console.print(f"  {drop['id']}: {drop['detail']}", markup=False, highlight=False, soft_wrap=True)
    if not report["rows_in"]:
        console.print("0 rows: the data is empty, so nothing can be done with it")
        return
    n, usable, left = report["rows_in"], report["rows_usable"], report["left_out"]
    console.print(f"{usable} of {n} rows can be used" + (f"; {left} are left out by take or weight" if left else ""))


def _print_bins(bins: Sequence[Iterable[int]], console: Console) -> None:
    most = max(rows for _, _, rows in bins)
    for start, end, rows in bins:
        bar = "#" * (-(-rows * _BAR // most))
        console.print(f"  {start:>7} to {end - 1:<7} {rows:>9} {bar}", markup=False, highlight=False)

"""`sicog data check`: read all rows and images once, in parallel, and report problems before a run.

With a checkpoint the rows are measured as in training and cached, so training starts at once. Other kinds of rows are
recognised by their keys and read like in the command that uses them.
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

from sicog.config import Config
from sicog.console import stdout_console, styled_text
from sicog.data.check_kinds import group_by_reason, report_of_kind
from sicog.data.config import DataConfig
from sicog.data.image_folder import ImageFolder
from sicog.data.measure import Measure, TokenMeasure, WordMeasure
from sicog.data.mixture import Mixture, read_mixture
from sicog.data.mixture_rows import UsableRows, measure_mixture
from sicog.data.rows.cache import cache_folder
from sicog.data.rows.row_kinds import EXAMPLES, kind_of
from sicog.model.image_plan import ImagePlan
from sicog.progress import with_progress
from sicog.stages.storage import write_json

_COLUMNS = ("path", "rows", "usable", "text_only", "images", "turns")
_BAR = 40


class CheckConfig(Config):
    """Config of `sicog data check`."""

    also: ClassVar[Mapping[str, str]] = {"image_folder": "data.image_folder"}
    data: DataConfig
    """The rows, as in `sicog train`."""
    checkpoint: Path | None = None
    """Checkpoint whose processor counts tokens; null: count words, and views of the full-size model."""
    slicing: bool = True
    """Whether to cut images into slices; false: only the thumbnail."""
    max_length: int = Field(default=4096, gt=0)
    """Maximum number of tokens of a row, image features included."""
    seed: int = Field(default=42, ge=0)
    """Seed of the random choices of a mixture."""


def check(config: CheckConfig, out: Path | None = None) -> bool:
    """Print a report on the data and write it to `out` as JSON. Returns True if there are rows and all are usable.

    Rows for other commands (unlabelled ones, pairs, captions ...) are read as those commands read them.
    Raises `ValueError` if the data cannot be read at all, or the image folder does not exist.
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
        # max_length counts tokens, so it does not apply to words.
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
        "dropped": group_by_reason(usable.dropped_rows()),
    }


def _source(mixture: Mixture, usable: UsableRows, number: int) -> dict[str, Any]:
    table = mixture.tables[number]
    chosen = mixture.selection.row[mixture.selection.table == number]
    images = turns = texts = 0
    for index in with_progress(chosen.tolist(), f"counting {table.source.path.name}", len(chosen)):
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
    console.print(f"read as {report['kind']}, for {report['read_by']}")
    for what in ("tokens", "words", "views"):
        if (found := report.get(what)) and found["total"]:
            console.print(f"{what} a row: median {found['median']:g}, longest {found['longest']}, all {found['total']}")
            _print_bins(found["bins"], console)
    for reason, found in report["dropped"].items():
        console.print(styled_text((reason, "bold"), f": {found['rows']} rows, such as"))
        for drop in found["first"]:
            console.print(f"  {drop['id']}: {drop['detail']}", soft_wrap=True)
    if not report["rows_in"]:
        console.print("0 rows: the data is empty")
        return
    n, usable, left = report["rows_in"], report["rows_usable"], report["left_out"]
    console.print(f"{usable} of {n} rows can be used" + (f"; take or weight leaves out {left}" if left else ""))


def _print_bins(bins: Sequence[Iterable[int]], console: Console) -> None:
    most = max(rows for _, _, rows in bins)
    for start, end, rows in bins:
        bar = "#" * (-(-rows * _BAR // most))
        console.print(f"  {start:>7} to {end - 1:<7} {rows:>9} {bar}")

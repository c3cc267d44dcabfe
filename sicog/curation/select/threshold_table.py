"""Table of what each threshold would keep of a scored folder (`sicog thresholds`): rows, mean score, mix of styles.

It needs no ground truth, and reads only the columns of scores, so a million rows take seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich import box
from rich.table import Table

from sicog.config import Config
from sicog.console import stdout_console
from sicog.curation.score.columns import all_columns, columns_of
from sicog.curation.select.select import excluded_rows
from sicog.curation.select.threshold import PAPER_K, By, agreement_of, threshold_at
from sicog.curation.select.verdicts import KEPT, Rule, Styles, verdicts
from sicog.stages.storage import write_json

CUTS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


class ThresholdsConfig(Config):
    """Config of `sicog thresholds`."""

    input: Path
    """A folder of scored sets."""
    by: By = "score"
    cuts: tuple[Annotated[float, Field(ge=-1, le=1)], ...] = Field(default=CUTS, min_length=1)
    """The thresholds to try."""
    threshold_k: int = Field(default=PAPER_K, ge=2)
    min_candidates: int = Field(default=3, ge=2)
    styles: Styles | None = None
    exclude: tuple[Path, ...] = ()
    out: Path | None = None
    """JSON file to write the table to; it is replaced if it exists."""


def thresholds(config: ThresholdsConfig) -> dict[str, Any]:
    """Print the table, write it to `out`, and return it.

    Per cut: rows_kept, share_kept (of all rows), and of the chosen candidates the mean `by`, the mean agreement and the
    share of each style; None when no row is kept. The mean `by` is stated for `threshold_k` candidates, like the cuts.
    `dropped`: rows that no threshold keeps, by reason.
    """
    found = table(config)
    _show(found, config)
    if config.out:
        write_json(config.out, found)
    return found


def table(config: ThresholdsConfig) -> dict[str, Any]:
    """Return the figures of `thresholds`."""
    rule, exclude = Rule(config.by, None, config.styles, config.min_candidates), excluded_rows(config.exclude)
    dropped, n_rows, parts, styles = Counter[str](), 0, [], dict[str, int]()
    for part in all_columns(columns_of(config.input)):
        found = verdicts(part, rule, exclude)
        n_rows += len(found.reasons)
        dropped.update(reason for reason in found.reasons if reason != KEPT)
        kept_R = np.array([reason == KEPT for reason in found.reasons], dtype=bool)
        places = (np.cumsum(part.sizes) - part.sizes + found.chosen)[kept_R]
        numbers = np.array([styles.setdefault(name, len(styles)) for name in part.style.names], dtype=np.int64)
        parts.append((found.agreement[kept_R], numbers[part.style.codes[places]]))
    if not n_rows:
        raise ValueError(f"{config.input} has no rows. Give a folder of scored sets")
    return {
        "by": config.by,
        "threshold_k": config.threshold_k,
        "min_candidates": config.min_candidates,
        "rows": n_rows,
        "dropped": dict(sorted(dropped.items())),
        "table": _cuts(config, n_rows, parts, list(styles)),
    }


def _cuts(
    config: ThresholdsConfig, n_rows: int, parts: Sequence[tuple[NDArray[Any], ...]], styles: Sequence[str]
) -> list[dict[str, Any]]:
    agreement, style = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(agreement, kind="stable")
    agreement, style, lines = agreement[order], style[order], []
    value = threshold_at(agreement, config.threshold_k)
    for cut in sorted(config.cuts):
        first = int(np.searchsorted(agreement, agreement_of(cut, config.threshold_k), side="left"))
        kept = len(agreement) - first
        counts = np.bincount(style[first:], minlength=len(styles)).tolist()
        lines.append(
            {
                "threshold": cut,
                "rows_kept": kept,
                "share_kept": kept / n_rows,
                f"mean_{config.by}": float(value[first:].mean()) if kept else None,
                "mean_agreement": float(agreement[first:].mean()) if kept else None,
                "styles": {name: n / kept for name, n in sorted(zip(styles, counts, strict=True)) if n},
            }
        )
    return lines


def _show(found: dict[str, Any], config: ThresholdsConfig) -> None:
    styles = sorted({name for line in found["table"] for name in line["styles"]})
    reasons = ", ".join(f"{reason} {n}" for reason, n in found["dropped"].items())
    title = f"{found['rows']} rows; at no threshold: {reasons or 'none'}"
    columns = (
        f"threshold at {config.threshold_k}",
        "rows kept",
        "share",
        f"mean {config.by} at {config.threshold_k}",
        "mean agreement",
        *styles,
    )
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        shown.add_column(column, justify="right")
    for line in found["table"]:
        means = [line[f"mean_{config.by}"], line["mean_agreement"]]
        shown.add_row(
            f"{line['threshold']:g}",
            str(line["rows_kept"]),
            f"{100 * line['share_kept']:.1f} %",
            *("-" if mean is None else f"{mean:.4f}" for mean in means),
            *(f"{100 * line['styles'].get(style, 0.0):.1f} %" for style in styles),
        )
    stdout_console().print(shown)

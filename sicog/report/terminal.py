"""Print the results as tables in the terminal, with the same numbers as on the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sicog.console import stdout_console
from sicog.statistics.intervals import with_limits


def show(results: Mapping[str, Any], page: Path, console: Console | None = None) -> None:
    """Print measures, differences, the verdict and, last, the path of the page."""
    console = console or stdout_console()
    if evaluation := results["evaluation"]:
        console.print(_values(evaluation))
        if evaluation["compared_with"]:
            console.print(_differences(evaluation))
        for sentence in evaluation["verdict"]:
            console.print(sentence)
    console.print(f"report: {page}", soft_wrap=True)


def figure(interval: Mapping[str, float | None], sign: str = "") -> str:
    """Format as `0.612 [0.590, 0.634]`, or without limits if there are none."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    return "-" if value is None else with_limits(value, low, high, f"{sign}.3f")


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("")
    return table


def _values(evaluation: Mapping[str, Any]) -> Table:
    table = _table("Test split, with 95 % intervals")
    table.add_column("n", justify="right")
    for name in evaluation["names"]:
        table.add_column(name, justify="right")
    for row, last in _rows(evaluation):
        values = [figure(row["values"][name]) for name in evaluation["names"]]
        table.add_row(_label(row), str(row["n"]), *values, end_section=last)
    return table


def _differences(evaluation: Mapping[str, Any]) -> Table:
    table = _table("Paired differences, with 95 % intervals")
    for other in evaluation["compared_with"]:
        table.add_column(f"next - {other}", justify="right")
    for row, last in _rows(evaluation):
        values = [figure(row["differences"][other], "+") for other in evaluation["compared_with"]]
        table.add_row(_label(row), *values, end_section=last)
    return table


def _rows(evaluation: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], bool]]:
    """Return each row, and whether it is the last of its kind."""
    rows = evaluation["rows"]
    return [(row, i + 1 < len(rows) and rows[i + 1]["kind"] != row["kind"]) for i, row in enumerate(rows)]


def _label(row: Mapping[str, Any]) -> str:
    return ("  " if row["part"] else "") + row["label"]

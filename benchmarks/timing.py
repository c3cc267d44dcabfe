"""Time the plain way and ours in turns, in one process on one thread, and report them with the hardware."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

_PACKAGES = ("torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True)
class Comparison:
    """Median seconds of each way; `ratio` is plain / ours."""

    plain_s: float
    ours_s: float
    ratio: float


def arguments(description: str) -> argparse.Namespace:
    """The options of every benchmark (out, smoke, repeats). Sets one thread, because single threads are compared."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="write the table as JSON to this file")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; check that it runs and both ways agree")
    parser.add_argument("--repeats", type=int, default=3, help="number of interleaved repeats; the median counts")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    torch.set_num_threads(1)
    return options


def compare(plain: Callable[[], Any], ours: Callable[[], Any], *, repeats: int = 5, warm_up: bool = True) -> Comparison:
    """Run both in turns, with a warm-up unless they have just run. Returns medians of seconds.

    On a CPU it is the processor time of this process, so other processes on a shared machine have little effect.
    With CUDA it is wall time, including the device's work.
    """
    if warm_up:
        plain(), ours()
    plain_s, ours_s = [], []
    for _ in range(repeats):
        plain_s.append(_seconds(plain))
        ours_s.append(_seconds(ours))
    return Comparison(median(plain_s), median(ours_s), median(plain_s) / median(ours_s))


def _seconds(run: Callable[[], Any]) -> float:
    if not torch.cuda.is_available():
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def hardware() -> dict[str, Any]:
    """The hardware of the measurement."""
    found: dict[str, Any] = {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def report(name: str, rows: list[dict[str, Any]], out: Path | None = None) -> None:
    """Print the rows (with equal keys) as a table, and write them with hardware, date and versions to `out`."""
    machine = hardware()
    where = f"{machine.get('gpu', machine['cpu'])}, {machine['threads']} thread(s), {date.today()}"
    table = Table()
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    console = Console(width=None if os.isatty(1) else 160)
    console.print(f"{name}: {where}", highlight=False, soft_wrap=True)
    console.print(table)
    if out is not None:
        versions = {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}}
        result = {"name": name, "date": str(date.today()), "hardware": machine, "versions": versions, "rows": rows}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")

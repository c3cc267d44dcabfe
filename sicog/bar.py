"""Counts and rate of long work: a bar where a person is watching, a line a minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sicog.console import stderr_console

T = TypeVar("T")
_LINE_EVERY_S = 60.0


class Counter:
    """Shown progress of `what`, of `total` rows if that is known; a context manager."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.n = what, total, 0
        self._start = self._last = time.monotonic()
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeRemainingColumn(),
            console=stderr_console(),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(what, total=total, counts="")

    def __enter__(self) -> Counter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, n: int) -> None:
        """Count `n` more rows."""
        self.n += n
        now = time.monotonic()
        if self._bar.disable:
            if now - self._last > _LINE_EVERY_S:
                self._last = now
                stderr_console().print(f"  {self.what}: {self._counts(now)}", highlight=False)
        elif now - self._last > 0.1:
            self._last = now
            self._bar.update(self._task, completed=self.n, counts=self._counts(now))

    def _counts(self, now: float) -> str:
        of = f" of {self.total:,}" if self.total is not None else ""
        return f"{self.n:,}{of} rows, {self.n / max(now - self._start, 1e-9):,.0f} rows/s"


def shown(rows: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The rows one by one, counted."""
    with Counter(what, total) as counter:
        for row in rows:
            yield row
            counter.add(1)

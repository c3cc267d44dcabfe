"""Progress of long work, in one form: a bar where a person watches, a line now and then in a log.

Both show what is done of what is to do, how fast it goes and how long it will still take.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sicog.console import stderr_console

T = TypeVar("T")
_FIRST_S, _LONGEST_S = 30.0, 600.0
_REDRAW_S = 0.1
_QUICK_S = 60.0  # work that takes less leaves no line in a log


class Pace:
    """When a log gets its next line: at every tenth of the work, and in between where a tenth takes long.

    The first line in between comes after half a minute, each further one after twice as long, up to ten minutes.
    Where the total is not known there are no tenths.
    """

    def __init__(self, done: int, total: int | None) -> None:
        self.total = total if total is None else max(1, total)
        self._tenth = self._tenths(done)
        self._last, self._wait = time.monotonic(), _FIRST_S

    def due(self, done: int) -> bool:
        """Whether a line is due now that so much is done; if so, it counts as written."""
        now, tenth = time.monotonic(), self._tenths(done)
        if tenth == self._tenth and now - self._last < self._wait:
            return False
        if tenth == self._tenth:
            self._wait = min(2 * self._wait, _LONGEST_S)
        self._tenth, self._last = tenth, now
        return True

    def _tenths(self, done: int) -> int:
        return 0 if self.total is None else done * 10 // self.total


class Bar:
    """The progress of one piece of work; a context manager.

    what: its name, printed as it is. total: None when it is not known. unit: the singular of what is counted. done:
    what was finished before; it does not count in the speed. quick_s: a log gets no line before so many seconds.
    stays: whether the bar remains when the work is done.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        unit: str = "row",
        done: int = 0,
        quick_s: float = 0.0,
        stays: bool = True,
        console: Console | None = None,
    ) -> None:
        self.what, self.total, self.unit, self.done, self.first = what, total, unit, done, done
        self.console = console or stderr_console()
        self.watched = self.console.file.isatty()
        self._start = self._drawn = time.monotonic()
        self._pace, self._quick_s, self._words = Pace(done, total), quick_s, ""
        self._bar = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.watched,
            transient=not stays,
        )
        self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the terminal, whether the work ended well or not."""
        words = self._words or self._speed(time.monotonic() - self._start)
        self._bar.update(self._task, completed=self.done, note=words)
        self._bar.stop()

    def add(self, n: int) -> None:
        """So many more are done; cheap enough for every row."""
        self.done += n
        now = time.monotonic()
        if now - self._drawn > _REDRAW_S:
            self._drawn = now
            self.update(self.done)

    def update(self, done: int, speed: str = "", note: str = "") -> None:
        """So many are done in all. speed: in words, instead of counts in a second. note: what else to show."""
        self.done = done
        seconds = time.monotonic() - self._start
        self._words = ", ".join(filter(None, (speed or self._speed(seconds), note)))
        if self.watched:
            self._bar.update(self._task, completed=done, note=self._words)
        elif seconds >= self._quick_s and self._pace.due(done):
            self.console.print(self._line(self._words, seconds), soft_wrap=True)

    def _speed(self, seconds: float) -> str:
        return f"{(self.done - self.first) / max(seconds, 1e-9):,.1f} {self.unit}s/s"

    def _line(self, words: str, seconds: float) -> str:
        if self.total is None:
            return f"  {self.what}: {self.done} {self.unit}s, {words}"
        line = f"  {self.what}: {self.unit} {self.done}/{self.total}, {words}"
        if self.done == self.first:
            return line
        left = seconds / (self.done - self.first) * (self.total - self.done)
        return f"{line}, {timedelta(seconds=round(left))} left"


def quick_bar(what: str, total: int | None = None, unit: str = "row") -> Bar:
    """A bar for work that is often done in a moment: it goes when the work is done, and a log hears of it late."""
    return Bar(what, total, unit=unit, quick_s=_QUICK_S, stays=False)


def with_progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "row") -> Iterator[T]:
    """The items one by one, with a quick bar."""
    with quick_bar(what, total, unit) as bar:
        for item in items:
            yield item
            bar.add(1)

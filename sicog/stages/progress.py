"""How far a data stage is, while it runs: rows done over all its processes, read from their journals."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sicog.console import stderr_console

_LOOK_S, _LOOK_FOR_LOG_S = 0.5, 5.0
_FIRST_S, _LONGEST_S = 30.0, 600.0


class Pace:
    """When a log gets its next line: at every tenth of the work, and in between where a tenth takes long.

    The first line in between comes after half a minute, each further one after twice as long, up to ten minutes.
    """

    def __init__(self, done: int, total: int) -> None:
        self.total = max(1, total)
        self._tenth = done * 10 // self.total
        self._last, self._wait = time.monotonic(), _FIRST_S

    def due(self, done: int) -> bool:
        """Whether a line is due now that so much is done; if so, it counts as written."""
        now, tenth = time.monotonic(), done * 10 // self.total
        if tenth == self._tenth and now - self._last < self._wait:
            return False
        if tenth == self._tenth:
            self._wait = min(2 * self._wait, _LONGEST_S)
        self._tenth, self._last = tenth, now
        return True


class Progressing:
    """In a `with`: a bar of the rows done by all workers, from their journals. Where nobody watches, lines at the pace
    of `Pace`."""

    def __init__(self, step: str, work: Path, n_rows: int, status: Callable[[], str]) -> None:
        self.step, self.work, self.n_rows, self.status = step, work, n_rows, status
        self.console = stderr_console()
        self.watched = sys.stderr.isatty()
        self.bar = Progress(
            TextColumn(f"  {step}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.watched,
        )
        self.seen: dict[Path, tuple[int, int]] = {}
        self.stop = threading.Event()

    def rows_done(self) -> int:
        """Rows in all journals; of a journal only what was added since the last look is read."""
        for path in self.work.glob("journal-*.jsonl"):
            offset, rows = self.seen.get(path, (0, 0))
            with path.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset, rows = offset + len(line), rows + _rows_of(line)
            self.seen[path] = (offset, rows)
        return sum(rows for _, rows in self.seen.values())

    def _watch(self) -> None:
        first, start = self.rows_done(), time.monotonic()
        task, pace = self.bar.add_task("", total=self.n_rows, completed=first, rate=""), Pace(first, self.n_rows)
        while not self.stop.wait(_LOOK_S if self.watched else _LOOK_FOR_LOG_S):
            done = self.rows_done()
            rate = self.status() or f"{(done - first) / (time.monotonic() - start):.1f} rows/s"
            self.bar.update(task, completed=done, rate=rate)
            if not self.watched and pace.due(done):
                self.console.print(f"  {self.step}: row {done}/{self.n_rows}, {rate}", highlight=False)

    def __enter__(self) -> Progressing:
        self.bar.start()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()
        self.bar.stop()


def _rows_of(line: bytes) -> int:
    """How many rows a finished block has: what its line begins with. The rest, all its records, is not read."""
    begin = re.match(rb'\{"rows":(\d+),', line)
    assert begin, line[:40]
    return int(begin[1])

"""How many rows of a data stage are done, over all its processes: read from their journals while it runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

from sicog.progress import Bar

_LOOK_S, _LOOK_FOR_LOG_S = 0.5, 5.0


class JournalProgress:
    """In a `with`: a bar of the rows that all workers have done, from their journals.

    speed: what a stage says of its own speed; empty: rows in a second.
    """

    def __init__(self, step: str, work: Path, n_rows: int, speed: Callable[[], str]) -> None:
        self.step, self.work, self.n_rows, self.speed = step, work, n_rows, speed
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

    def _watch(self, bar: Bar) -> None:
        while not self.stop.wait(_LOOK_S if bar.watched else _LOOK_FOR_LOG_S):
            bar.update(self.rows_done(), self.speed())

    def __enter__(self) -> JournalProgress:
        self.bar = Bar(self.step, self.n_rows, done=self.rows_done()).__enter__()
        self.thread = threading.Thread(target=self._watch, args=(self.bar,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()
        self.bar.close()


def _rows_of(line: bytes) -> int:
    """How many rows a finished block has: what its line begins with. The rest, all its records, is not read."""
    begin = re.match(rb'\{"rows":(\d+),', line)
    assert begin, line[:40]
    return int(begin[1])

"""Handle SIGUSR1, SLURM's warning before the time limit, before and after the updates. Needs no torch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TO_BE_CONTINUED = os.EX_TEMPFAIL  # 75: run again to resume


@contextmanager
def nothing_to_save() -> Iterator[None]:
    """Inside this context, SIGUSR1 ends the process at once with the code that means: run again to resume.

    Before and after the updates nothing is lost by that, and the exit code makes SLURM queue the job again.
    """

    def end(_number: int, _frame: Any) -> None:
        raise SystemExit(TO_BE_CONTINUED)

    before = signal.signal(signal.SIGUSR1, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)

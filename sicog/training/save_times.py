"""When a training saves a checkpoint: after so many updates, or by the clock. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Callable

_PARTS = 10  # checkpoints of a run that is shorter than so many times `minutes`
_COST = 10  # saving takes at most one part in so many of the time


class SaveTimes:
    """Decide after every update whether to save.

    save_steps: every so many updates. None: every `minutes` or every tenth of the run, whichever is sooner, but only
    when the run has worked ten times as long since the last checkpoint as it took to write that one.
    """

    def __init__(
        self, n_steps: int, save_steps: int | None, minutes: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.n_steps = n_steps
        self.save_steps = save_steps
        self.minutes = minutes
        self.clock = clock
        self.since = clock()
        self.cost = 0.0

    def begin(self) -> None:
        """Start the clock at the first update."""
        self.since = self.clock()

    def is_due(self, step: int) -> bool:
        """Whether to save after this update."""
        if self.save_steps is not None:
            return step % self.save_steps == 0
        worked = self.clock() - self.since
        at_a_tenth = step % max(1, self.n_steps // _PARTS) == 0
        return (at_a_tenth or worked >= 60 * self.minutes) and worked >= _COST * self.cost

    def saved(self, seconds: float) -> None:
        """Note that a checkpoint has been written, which took so many seconds."""
        self.since, self.cost = self.clock(), seconds

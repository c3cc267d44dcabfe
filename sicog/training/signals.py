"""Save when it is time, and stop on a signal: finish the update, save a checkpoint, exit with a code that says so.

The signals are SIGTERM, SIGUSR1 and SIGINT (Ctrl-C). A second Ctrl-C ends the run at once. With several processes a
signal to one of them stops all after the same update.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from sicog.console import say
from sicog.training.save_times import SaveTimes
from sicog.training.time_limit import TO_BE_CONTINUED

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# torchrun forwards Ctrl-C, so it may arrive twice.
_SAME_KEY_PRESS = 1.0


class SaveAndStop(TrainerCallback):
    """Decide after every update, for all processes at once, whether to save and whether to stop.

    The main process's clock decides when a checkpoint is due. A stop signal to any process saves and ends all.
    stopped: the update after which the run stopped early, or None.
    """

    def __init__(self, times: SaveTimes) -> None:
        self.times = times
        self.signal: signal.Signals | None = None
        self.at = 0.0
        self.stopped: int | None = None

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Inside this context, signals are stored and do not end the process."""
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: Any) -> None:
        if number == signal.SIGINT and self.signal and time.monotonic() - self.at > _SAME_KEY_PRESS:
            raise KeyboardInterrupt
        if self.signal is None:
            self.signal, self.at = signal.Signals(number), time.monotonic()
            os.write(2, f"  {self.signal.name}: stopping after this update, with a checkpoint\n".encode())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.times.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the Trainer save or stop, unless the run ends here anyway: its last update is always saved."""
        is_due = state.is_world_process_zero and self.times.is_due(state.global_step)
        flags = torch.tensor([float(is_due), float(self.signal is not None)], device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        if state.global_step >= state.max_steps:
            return
        must_save, must_stop = map(bool, flags.tolist())
        control.should_save = control.should_save or must_save or must_stop
        if must_stop:
            control.should_training_stop = True
            self.stopped = state.global_step


def leave(stage: str, step: int, n_steps: int) -> None:
    """End this process with the exit code that means: run the same command again to resume."""
    if int(os.environ.get("RANK", "0")) == 0:
        say(f"{stage}: stopped after update {step} of {n_steps} and saved; run the same command again to resume")
    raise SystemExit(TO_BE_CONTINUED)

"""A stop signal ends a run well: the update in progress is finished, a checkpoint saved, and the exit code says so.

SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) count; a second Ctrl-C ends the run at once. With several processes a signal to any
of them stops all after the same update.
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

from sicog.console import stderr_console
from sicog.training.time_limit import TO_BE_CONTINUED

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# torchrun passes a Ctrl-C on, so that one may come twice.
_SAME_KEY_PRESS = 1.0


class StopSignal(TrainerCallback):
    """Looks after every update whether a process was told to stop; then lets the Trainer save and end.

    stopped: the update after which the run was stopped before its end, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.at = 0.0
        self.stopped: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this is open, signals are noted instead of ending the process."""
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

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop all processes when one was told to, unless the run ends here anyway."""
        told = torch.tensor(float(self.signal is not None), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
        if told.item() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
            self.stopped = state.global_step


def leave(stage: str, step: int, n_steps: int) -> None:
    """End this process with the code that means: run the same again to go on."""
    if int(os.environ.get("RANK", "0")) == 0:
        text = f"  {stage}: stopped after update {step} of {n_steps} and saved; run the same command again to resume"
        stderr_console().print(text, highlight=False)
    raise SystemExit(TO_BE_CONTINUED)

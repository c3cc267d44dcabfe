"""Write metrics.jsonl, speed.jsonl and TensorBoard files during training, and show one progress bar.

metrics.jsonl holds only reproducible values, so a run that was killed and resumed gives the same bytes as an
undisturbed one. Speeds differ each time and are in a separate file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO, Any

import orjson
from transformers import TrainerCallback

from sicog.console import say
from sicog.data.batching import RunPlan
from sicog.model.kernels.rotary import restore_frequencies
from sicog.progress import Bar
from sicog.stages.storage import truncate_to_last_line
from sicog.training.objectives.dpo import METRICS as DPO_METRICS
from sicog.training.speed import Meter, memory_bytes

METRICS, SPEED, TENSORBOARD = "metrics.jsonl", "speed.jsonl", "tensorboard"


class MetricsWriter(TrainerCallback):
    """One line per update to metrics.jsonl and speed.jsonl, and the same to TensorBoard."""

    def __init__(self, run_dir: Path, plan: RunPlan, n_rows: int, meter: Meter, *, tensorboard: bool) -> None:
        self.run_dir = run_dir
        self.plan = plan
        self.n_rows = n_rows
        self.meter = meter
        self.tensorboard = tensorboard
        self.files: dict[str, IO[bytes]] = {}
        self.board: Any = None
        self.start = self.since = 0.0
        self.first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the files. On resume, remove lines after the resumed update."""
        self.start = self.since = time.perf_counter()
        self.first = state.global_step
        if not state.is_world_process_zero:
            return
        for name in (METRICS, SPEED):
            cut_after(self.run_dir / name, state.global_step)
            self.files[name] = (self.run_dir / name).open("ab")
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            purge = state.global_step + 1 if state.global_step else None
            self.board = SummaryWriter(str(self.run_dir / TENSORBOARD), purge_step=purge)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write the values of one update."""
        if not self.files or not logs or "loss" not in logs:
            return
        now, step = time.perf_counter(), state.global_step
        samples = int(self.plan.step_borders[step])
        seconds, self.since = now - self.since, now
        speed = self.meter.between(step - 1, step, seconds)
        metrics = {
            "step": step,
            "epoch": round(samples / self.n_rows, 6),
            "samples": samples,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            **{name: value for name, value in logs.items() if name.startswith("learning_rate/")},
            "grad_norm": logs.get("grad_norm"),
            **{name: logs[name] for name in DPO_METRICS if name in logs},
        }
        speeds = {
            "step": step,
            "steps": self.plan.n_steps,
            "seconds": round(seconds, 4),
            "samples_per_second": round(speed.samples_per_second, 2),
            "tokens_per_second": round(speed.tokens_per_second, 1),
            "useful_tokens": round(speed.useful_tokens, 4),
            "mfu": None if speed.mfu is None else round(speed.mfu, 4),
            "memory_gib": round(memory_bytes() / 2**30, 3),
            "seconds_left": round((now - self.start) / (step - self.first) * (self.plan.n_steps - step), 1),
        }
        for name, line in ((METRICS, metrics), (SPEED, speeds)):
            self.files[name].write(orjson.dumps(line) + b"\n")
            self.files[name].flush()
        if self.board is not None:
            for key, value in {**metrics, **speeds}.items():
                if key not in ("step", "steps", "samples", "seconds", "seconds_left") and value is not None:
                    self.board.add_scalar(f"train/{key}", value, step)

    def close(self) -> None:
        """Close the files, whether training ended well or not."""
        for file in self.files.values():
            os.fsync(file.fileno())
            file.close()
        self.files = {}
        if self.board is not None:
            self.board.close()


class ExactPositions(TrainerCallback):
    """Restore rotary frequencies that an engine or a loader has rounded. It comes before all that runs the model."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Repair the wrapped model, and say so once."""
        if (replaced := restore_frequencies(model)) and state.is_world_process_zero:
            say(f"restored rotary frequencies that were not exact float32: {', '.join(replaced)}")


class ProgressBar(TrainerCallback):
    """One bar, or lines of a log, with updates, speeds, memory and loss."""

    def __init__(self, stage: str, meter: Meter) -> None:
        self.stage = stage
        self.meter = meter
        self.bar: Bar | None = None
        self.start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start at the resumed update."""
        self.start = time.perf_counter()
        if state.is_world_process_zero:
            self.bar = Bar(self.stage, self.meter.n_steps, unit="update", done=state.global_step).__enter__()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest loss and the mean speed of this process."""
        if self.bar is None or not logs or "loss" not in logs:
            return
        step = state.global_step
        speed = self.meter.between(self.bar.first, step, time.perf_counter() - self.start)
        memory = f"{memory_bytes() / 2**30:.1f} GiB"
        self.bar.update(step, speed=f"{speed}, {memory}", note=f"loss {logs['loss']:.4f}")

    def close(self) -> None:
        """Release the terminal, whether training ended well or not."""
        if self.bar is not None:
            self.bar.close()


def cut_after(path: Path, step: int) -> None:
    """Cut a file of JSON lines after the line of this step, with any half-written last line."""
    kept = b"".join(line for line in truncate_to_last_line(path) if orjson.loads(line)["step"] <= step)
    if path.exists():
        os.truncate(path, len(kept))

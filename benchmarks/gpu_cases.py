"""Run the cases of `gpu_model`: limit their time, note failures, and write each row at once."""

from __future__ import annotations

import importlib.util
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.timing import hardware

if TYPE_CHECKING:
    from benchmarks.gpu_model import Bench

# Seconds from the start: no training case starts after the first, no case starts after the second, and all stop at the
# third. A single case (a slow compiler) is stopped after CASE_S.
TRAIN_S, DECODE_S, END_S, CASE_S = 5.5 * 60, 8 * 60, 8.5 * 60, 100
# Packages that an option needs in addition to a CUDA device.
NEEDS = {
    "varlen": "torch.nn.attention.varlen",
    "flash_attention_2": "flash_attn",
    "liger": "liger_kernel",
    "adamw_8bit": "bitsandbytes",
}


class NotEqualError(AssertionError):
    """A case computes other results than the plain way."""


def missing(bench: Bench, *options: str) -> str:
    """A note if one of these options is not available here, else nothing."""
    for option in options:
        if option in (*NEEDS, "graph") and bench.device == "cpu":
            return "not available: needs a CUDA device"
        if option in NEEDS and importlib.util.find_spec(NEEDS[option]) is None:
            return f"not available: {NEEDS[option]} is not installed"
    return ""


def attempt(
    bench: Bench, measure: Callable[[], dict[str, Any]], columns: tuple[str, ...], absent: str, by: float
) -> Any:
    """The result of a case, and a note on failure, else empty. by: seconds after which the case does not start."""
    note, measured = absent, dict.fromkeys(columns)
    if not note and bench.elapsed > by:
        note = "out of time"
    if not note:
        # Repeat it every second, because an alarm during a finalizer is lost.
        signal.setitimer(signal.ITIMER_REAL, max(1, int(min(CASE_S, END_S - bench.elapsed))), 1)
        try:
            bench.clear()
            measured = measure()
        except torch.OutOfMemoryError:
            note = "out of memory"
        except NotEqualError as error:
            note = f"NOT EQUAL: {error}"
        except Exception as error:  # errors of kernels or compilers on this machine must not end other cases
            note = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return {**measured, "note": note}


def stop_case(*_: object) -> None:
    """The alarm's handler."""
    raise TimeoutError("the case took too long")


class Rows:
    """Rows that are printed and written at once, so a stopped process loses none."""

    def __init__(self, name: str, out: Path | None) -> None:
        self.name, self.rows = name, list[dict[str, Any]]()
        self.out = out and out.with_name(f"{out.stem}-{name.split()[0]}{out.suffix}")

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Print and write a row."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.out:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"name": self.name, "hardware": hardware(), "rows": self.rows}, indent=2)
            new = self.out.with_name(f"{self.out.name}.new")
            new.write_text(text + "\n")
            new.replace(self.out)
        return row


def seconds(run: Callable[[], Any], *, warm: int = 1, repeats: int = 3) -> float:
    """Median seconds of a run, the device's work included."""
    times = []
    for i in range(warm + repeats):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        if i >= warm:
            times.append(time.perf_counter() - start)
    return median(times)


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rms(x: torch.Tensor) -> torch.Tensor:
    """Root of the mean square along the last dimension, in float32."""
    return x.float().square().mean(dim=-1).sqrt()

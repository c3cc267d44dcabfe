"""How fast a run is: samples, tokens, the useful share of them, and how much of the devices' FLOP/s is used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sicog.data.batching import RunPlan
from sicog.estimates.arithmetic.devices import device_rates
from sicog.model.lengths import RowLengths

if TYPE_CHECKING:
    from sicog.model.configuration import SicogConfig


@dataclass(frozen=True)
class Speed:
    """Means over some updates.

    useful_tokens: of the positions that all ranks have time for, the share that is of rows and neither padding nor
    waiting for the slowest. mfu: model FLOP utilisation, 0 to 1, None where the device's own rate is not known.
    """

    samples_per_second: float
    tokens_per_second: float
    useful_tokens: float
    mfu: float | None

    def __str__(self) -> str:
        words = [f"{self.samples_per_second:.1f} samples/s", f"{self.tokens_per_second:,.0f} tokens/s"]
        words.append(f"{100 * self.useful_tokens:.0f} % useful")
        return ", ".join([*words, f"MFU {100 * self.mfu:.0f} %"] if self.mfu is not None else words)


class Meter:
    """Speeds between any two updates of a plan.

    row_flops: float64 [N], FLOPs of training on each row; peak: FLOP/s of all devices together. None of either: no MFU.
    """

    def __init__(
        self, plan: RunPlan, lengths: RowLengths, row_flops: np.ndarray | None = None, peak: float | None = None
    ) -> None:
        self.n_steps = plan.n_steps
        self.peak = peak
        tokens = lengths.tokens[plan.rows].astype(np.int64)
        self._samples = plan.step_borders
        self._tokens = _until(tokens, plan.step_borders)
        self._positions = np.append(0, np.cumsum(np.diff(self._tokens) / plan.useful_token_shares(lengths.tokens)))
        known = row_flops is not None and peak is not None
        self._flops = _until(row_flops[plan.rows], plan.step_borders) if known else None  # type: ignore[index]

    def between(self, first: int, last: int, seconds: float) -> Speed:
        """The speed of the updates after `first` up to `last`, which took so long."""

        def done(total: np.ndarray) -> float:
            return float(total[last] - total[first])

        return Speed(
            samples_per_second=done(self._samples) / seconds,
            tokens_per_second=done(self._tokens) / seconds,
            useful_tokens=done(self._tokens) / done(self._positions),
            mfu=done(self._flops) / seconds / self.peak if self._flops is not None and self.peak else None,
        )


def flops_and_peak(
    model: SicogConfig, trainable: Collection[str], lengths: RowLengths, n_devices: int
) -> tuple[np.ndarray, float] | tuple[None, None]:
    """What a `Meter` needs for MFU; None on a CPU or a device that is not known.

    Without what checkpointing runs again: that is no use that the model makes of a device.
    """
    import torch

    from sicog.estimates.arithmetic.flops import row_cost

    rates = device_rates(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if rates is None:
        return None, None
    return row_cost(model, trainable).of(lengths), rates[0] * n_devices


def memory_bytes() -> int:
    """The most memory of the device that was in use since the start; on a CPU what this process holds now."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import psutil

    return int(psutil.Process().memory_info().rss)


def _until(values: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """The sum of the values before each border."""
    return np.concatenate([[0], np.cumsum(values)])[borders]

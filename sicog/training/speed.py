"""Speed of a run: samples and tokens a second, the useful share of the positions, and model FLOP utilisation."""

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

    useful_tokens: the share of positions that are neither padding nor waiting time, of all that the ranks could compute
    while the slowest one works. mfu: model FLOP utilisation, 0 to 1; None for a device of unknown speed.
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

    row_flops: float64 [N], FLOPs of training on each row. peak: FLOP/s of all devices together. Without both: no MFU.
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
        """The speed of the updates after `first` up to `last`, which took `seconds`."""

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
    """`row_flops` and `peak` of a `Meter`; None on a CPU or an unknown device.

    FLOPs that checkpointing repeats are not counted: they do not train the model.
    """
    import torch

    from sicog.estimates.arithmetic.flops import row_cost

    rates = device_rates(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if rates is None:
        return None, None
    return row_cost(model, trainable).of(lengths), rates[0] * n_devices


def memory_bytes() -> int:
    """The peak of allocated memory on the GPU since the start; on a CPU the memory of this process now."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import psutil

    return int(psutil.Process().memory_info().rss)


def _until(values: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """The sum of the values before each border."""
    return np.concatenate([[0], np.cumsum(values)])[borders]

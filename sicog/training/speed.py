"""How fast a run is: samples, tokens, the share of them that is no padding, and of the devices' FLOP/s that is used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sicog.data.batching import RunPlan
from sicog.data.lengths import RowLengths
from sicog.model.devices import device_rates

if TYPE_CHECKING:
    from sicog.model.configuration import SicogConfig

_PROBES = ((1, 1), (2, 2), (3, 3))  # views in patches, from which the cost of any number of patches follows


@dataclass(frozen=True)
class Speed:
    """Means over some updates.

    useful_tokens: the share of the positions computed that are of rows and not padding. mfu: model FLOP utilisation,
    0 to 1, None where the device's own rate is not known.
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
        self._positions = _until(_padded(tokens, plan.borders), np.arange(plan.n_steps + 1) * _micro_batches(plan))
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


def row_flops(config: SicogConfig, lengths: RowLengths, trainable: Collection[str]) -> np.ndarray:
    """float64 [N]: FLOPs of training on each row, as `sicog.model.flops` counts them, without what is run again.

    The views of a row are taken to be alike, and of the projector to be of `scale` x `scale` pixels.
    """
    from sicog.model.flops import Work, products

    def cost(work: Work, part: str) -> float:
        return float(sum(x.training(trainable, False) for x in products(config, work) if x.part == part))

    def language(tokens: int, supervised: int) -> float:
        return cost(Work((), 0, tokens, supervised), "language_model")

    tokens, supervised, views, patches = (
        x.astype(np.float64) for x in (lengths.tokens, lengths.supervised, lengths.views, lengths.patches)
    )
    # Polynomials of few terms, each found from as many rows: (patches, 1, pairs) of a view, (T, T^2) of the text.
    tower = [cost(Work((view,), 0, 0, 0), "vision_tower") for view in _PROBES]
    of_view = np.linalg.solve([[h * w, 1, (h * w + 1) ** 2] for h, w in _PROBES], tower)
    of_text = np.linalg.solve([[1, 1], [2, 4]], [language(1, 0), language(2, 0)])
    side = config.scale // config.patch_size
    of_projector = [cost(Work(((side, side),) * n, 0, 0, 0), "projector") for n in (1, 2)]
    each = np.divide(patches, views, out=np.zeros_like(patches), where=views > 0)
    total = of_view[0] * patches + of_view[1] * views + of_view[2] * views * (each + 1) ** 2
    total += (views > 0) * (2 * of_projector[0] - of_projector[1]) + views * (of_projector[1] - of_projector[0])
    total += of_text[0] * tokens + of_text[1] * tokens**2
    return np.asarray(total + (language(1, 1) - language(1, 0)) * supervised)


def devices_peak(n_devices: int) -> float | None:
    """FLOP/s of so many devices of this machine's kind; None on a CPU or a device that is not known."""
    import torch

    rates = device_rates(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return rates[0] * n_devices if rates else None


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


def _padded(tokens: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """int64: positions of each micro-batch when its rows are padded to the longest."""
    longest = np.maximum.reduceat(np.append(tokens, 0), borders[:-1])
    return longest * np.diff(borders)


def _micro_batches(plan: RunPlan) -> int:
    return plan.accumulation * plan.world_size

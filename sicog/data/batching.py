"""The order of a training run: which rows make each update, a pure function of lengths, sizes and the seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Updates whose rows are sorted together by `group_by_length`: enough to save padding, few enough to stay well mixed.
_STEPS_PER_GROUP = 8


@dataclass(frozen=True)
class RunPlan:
    """`rows_SG`: for each of S updates the G rows of the global batch. The same on every rank and on resume."""

    rows_SG: np.ndarray  # noqa: N815

    @property
    def n_steps(self) -> int:
        """Number of updates."""
        return len(self.rows_SG)

    @property
    def global_batch(self) -> int:
        """Rows of one update, over all ranks and accumulation steps."""
        return int(self.rows_SG.shape[1])

    def micro_batches(self, *, device_batch: int, world_size: int, rank: int) -> list[list[int]]:
        """The micro-batches of one rank in order; each update is `G / (device_batch * world_size)` of them."""
        return self.rows_SG.reshape(-1, world_size, device_batch)[:, rank].tolist()


class RankBatches:
    """A batch sampler over the micro-batches of one rank."""

    def __init__(self, batches: Sequence[list[int]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def plan_run(
    lengths: Sequence[int],
    *,
    global_batch: int,
    epochs: float = 1.0,
    max_steps: int | None = None,
    seed: int,
    group_by_length: bool = False,
) -> RunPlan:
    """Plan all updates of a run.

    Each epoch is a seeded permutation; epochs follow each other without a gap, and the last update is filled from the
    next permutation, so that every update has exactly `global_batch` rows. Raises `ValueError` when there are fewer
    rows than that.
    """
    n = len(lengths)
    if n < global_batch:
        raise ValueError(
            f"there are {n} usable rows, fewer than global_batch {global_batch}; use more data or a smaller batch"
        )
    # 1e-9: 0.1 epochs of 30 rows are 3 rows, not 3.0000000000000004.
    n_steps = max_steps or max(1, math.ceil(epochs * n / global_batch - 1e-9))
    n_epochs = -(-n_steps * global_batch // n)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(n) for epoch in range(n_epochs)])
    rows_SG = order[: n_steps * global_batch].reshape(n_steps, global_batch)
    return RunPlan(_grouped(rows_SG, np.asarray(lengths), seed) if group_by_length else rows_SG)


def accumulation_steps(global_batch: int, device_batch: int, world_size: int) -> int:
    """Micro-batches of an update on each process. Raises `ValueError` with the nearest choices when not whole."""
    at_once = device_batch * world_size
    if global_batch % at_once == 0:
        return global_batch // at_once
    below, above = global_batch // at_once * at_once, -(-global_batch // at_once) * at_once
    batches = " or ".join(str(b) for b in (below, above) if b)
    per_process = global_batch // world_size if global_batch % world_size == 0 else 0
    fitting = [d for d in range(1, per_process + 1) if per_process % d == 0]
    nearest = sorted(sorted(fitting, key=lambda d: abs(d - device_batch))[:2])
    devices = f", or device_batch {' or '.join(map(str, nearest))}" if nearest else ""
    raise ValueError(
        f"global_batch {global_batch} is not a multiple of device_batch {device_batch} x {world_size} processes "
        f"= {at_once}; use global_batch {batches}{devices}"
    )


def _grouped(rows_SG: np.ndarray, lengths: np.ndarray, seed: int) -> np.ndarray:
    """Sort the rows of a few updates by length, cut them into updates again, and shuffle these updates."""
    rng = np.random.default_rng([seed, len(rows_SG)])
    groups = []
    for start in range(0, len(rows_SG), _STEPS_PER_GROUP):
        group = rows_SG[start : start + _STEPS_PER_GROUP]
        rows = group.ravel()
        by_length = rows[np.argsort(-lengths[rows], kind="stable")].reshape(group.shape)
        groups.append(by_length[rng.permutation(len(group))])
    return np.concatenate(groups)

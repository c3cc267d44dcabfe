"""Plan which rows form each update of a run: a pure function of lengths, sizes and the seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Updates whose rows `group_by_length` sorts together: enough to save padding, few enough to stay well mixed.
_STEPS_PER_GROUP = 8


@dataclass(frozen=True)
class RunPlan:
    """All micro-batches of a run, the same on every rank and on resume.

    rows: int64 [N], the rows of all updates. In an update the first micro-batches of all ranks come first, then the
    second ones, and so on. borders: int64 [S * A * W + 1], the start of each micro-batch in `rows`, for S updates of
    `accumulation` A micro-batches on each of `world_size` W ranks. padded: whether a micro-batch is padded to its
    longest row; packed ones are not.
    """

    rows: np.ndarray
    borders: np.ndarray
    accumulation: int
    world_size: int
    padded: bool = True

    @property
    def n_steps(self) -> int:
        """Number of updates."""
        return (len(self.borders) - 1) // (self.accumulation * self.world_size)

    @property
    def step_borders(self) -> np.ndarray:
        """int64 [S + 1]: the start of the rows of each update; equal to the rows seen before it."""
        return self.borders[:: self.accumulation * self.world_size]

    def rows_of(self, step: int) -> np.ndarray:
        """int64 [G]: the rows of an update, counted from 0, over all ranks."""
        first, last = self.step_borders[step : step + 2]
        return self.rows[first:last]

    def useful_token_shares(self, tokens: np.ndarray) -> np.ndarray:
        """float64 [S]: the share of useful tokens in the positions that all ranks have time for.

        tokens: int [N] by row. In each micro-batch all ranks wait for the one with the most positions, with padding.
        """
        starts, ends = self.borders[:-1], self.borders[1:]
        of_rows = np.asarray(tokens, dtype=np.int64)[self.rows]
        useful = np.add.reduceat(of_rows, starts)
        positions = np.maximum.reduceat(of_rows, starts) * (ends - starts) if self.padded else useful
        slowest_SA = positions.reshape(self.n_steps, self.accumulation, self.world_size).max(axis=2)
        shares: np.ndarray = useful.reshape(self.n_steps, -1).sum(axis=1) / (slowest_SA.sum(axis=1) * self.world_size)
        return shares

    def micro_batches(self, rank: int) -> RankBatches:
        """The micro-batches of one rank in order, A for each update."""
        return RankBatches(self, rank)


@dataclass(frozen=True)
class RankBatches:
    """A batch sampler over the micro-batches of one rank."""

    plan: RunPlan
    rank: int

    def __len__(self) -> int:
        return self.plan.n_steps * self.plan.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for k in range(self.rank, len(self.plan.borders) - 1, self.plan.world_size):
            yield self.plan.rows[self.plan.borders[k] : self.plan.borders[k + 1]].tolist()


def plan_run(
    lengths: Sequence[int] | np.ndarray,
    *,
    global_batch: int,
    device_batch: int,
    world_size: int = 1,
    epochs: float = 1.0,
    max_steps: int | None = None,
    seed: int,
    group_by_length: bool = False,
) -> RunPlan:
    """Plan all updates of a run, with `device_batch` rows in each micro-batch.

    Each epoch is a seeded permutation. Epochs follow each other without a gap, and the last update takes rows from the
    next permutation. So every update has exactly `global_batch` rows. Raises `ValueError` if there are fewer rows, or
    the batch does not divide.
    """
    rows_SG = draw_updates(len(lengths), global_batch, epochs=epochs, max_steps=max_steps, seed=seed)
    if group_by_length:
        rows_SG = _group_by_length(rows_SG, np.asarray(lengths), seed)
    accumulation = accumulation_steps(global_batch, device_batch, world_size)
    return RunPlan(rows_SG.ravel(), np.arange(0, rows_SG.size + 1, device_batch), accumulation, world_size)


def draw_updates(n: int, global_batch: int, *, epochs: float, max_steps: int | None, seed: int) -> np.ndarray:
    """int64 [S, global_batch]: the rows of each update of a run over n rows; see `plan_run`."""
    if n < global_batch:
        raise ValueError(
            f"there are {n} usable rows, fewer than global_batch {global_batch}. Use more data or a smaller batch"
        )
    # 1e-9: 0.1 epochs of 30 rows are 3 rows, not 3.0000000000000004.
    n_steps = max_steps or max(1, math.ceil(epochs * n / global_batch - 1e-9))
    n_epochs = -(-n_steps * global_batch // n)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(n) for epoch in range(n_epochs)])
    return order[: n_steps * global_batch].reshape(n_steps, global_batch)


def accumulation_steps(global_batch: int, device_batch: int, world_size: int) -> int:
    """Micro-batches of an update on each process. Raises `ValueError` with the nearest valid sizes if not whole."""
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


def _group_by_length(rows_SG: np.ndarray, lengths: np.ndarray, seed: int) -> np.ndarray:
    """Sort the rows of a few updates by length, cut them into updates again, and shuffle these updates."""
    rng = np.random.default_rng([seed, len(rows_SG)])
    groups = []
    for start in range(0, len(rows_SG), _STEPS_PER_GROUP):
        group = rows_SG[start : start + _STEPS_PER_GROUP]
        rows = group.ravel()
        by_length = rows[np.argsort(-lengths[rows], kind="stable")].reshape(group.shape)
        groups.append(by_length[rng.permutation(len(group))])
    return np.concatenate(groups)

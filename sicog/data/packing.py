"""Plan packed micro-batches: assign rows to bins for all ranks, under a token limit and a view limit.

Rows are assigned largest first, each to the emptiest bin. If it does not fit there, it goes to the fullest bin that has
room (best fit). The bins become full, similar in tokens, views and FLOPs, and mixed in lengths. Best fit alone would
fill one bin after another with rows of one length, and updates would differ much. See `benchmarks/packing.py`.

Shapes: N rows, S problems solved at the same time, G rows and B bins of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sicog.data.batching import RunPlan, draw_updates
from sicog.model.lengths import RowLengths

# Bins that `plan_epoch` fills together: enough for full bins, few enough for speed.
_BINS_AT_ONCE = 256


@dataclass(frozen=True)
class PackLimits:
    """Maximum numbers of positions and views (slices and thumbnails) in one micro-batch."""

    tokens: int
    views: int

    def least_bins(self, rows: PackRows, chosen: np.ndarray) -> float:
        """The number of micro-batches that these rows would fill without gaps."""
        return float(max(rows.tokens[chosen].sum() / self.tokens, rows.views[chosen].sum() / self.views))


@dataclass(frozen=True)
class PackRows:
    """Sizes of rows, [N] each: int64 tokens and views, and float64 FLOPs."""

    tokens: np.ndarray
    views: np.ndarray
    flops: np.ndarray

    @classmethod
    def of(cls, lengths: RowLengths, flops: np.ndarray) -> PackRows:
        """From the lengths of rows and their cost (`RowCost.of`)."""
        return cls(lengths.tokens.astype(np.int64), lengths.views.astype(np.int64), flops.astype(np.float64))

    def __len__(self) -> int:
        return len(self.tokens)


def plan_steps(
    rows: PackRows,
    limits: PackLimits,
    *,
    global_batch: int,
    world_size: int = 1,
    epochs: float = 1.0,
    max_steps: int | None = None,
    seed: int,
) -> RunPlan:
    """Pack exactly the rows that `plan_run` samples for each update. They do not depend on the number of ranks.

    The accumulation is the smallest with which all rows of all updates fit. Within an update the ranks get bins of
    similar FLOPs at the same time. Raises `ValueError` if a row exceeds a limit, or a rank would get no row.
    """
    _check_limits(rows, limits)
    check_enough_rows(global_batch, world_size)
    drawn_SG = draw_updates(len(rows), global_batch, epochs=epochs, max_steps=max_steps, seed=seed)
    most = max(
        rows.tokens[drawn_SG].sum(axis=1).max() / limits.tokens, rows.views[drawn_SG].sum(axis=1).max() / limits.views
    )
    for accumulation in range(max(1, math.ceil(most / world_size)), global_batch // world_size + 1):
        n_bins = accumulation * world_size
        bins_SG = _deal_steps(rows, limits, drawn_SG, n_bins)
        if bins_SG is not None:
            offsets = np.arange(len(drawn_SG))[:, None] * n_bins
            packed = Bins.of(drawn_SG.ravel(), (bins_SG + offsets).ravel(), len(drawn_SG) * n_bins)
            # Bins of similar cost run at the same time, so ranks wait least for each other.
            order_SB = np.argsort(-packed.totals(rows.flops).reshape(-1, n_bins), axis=1, kind="stable")
            placed = packed.reorder((order_SB + np.arange(len(order_SB))[:, None] * n_bins).ravel())
            return RunPlan(placed.rows, placed.borders, accumulation, world_size, padded=False)
    fitting = global_batch // world_size * world_size
    raise ValueError(
        f"the {global_batch} rows of an update do not fit into the {fitting} micro-batches that give each of "
        f"{world_size} processes equally many, with pack_tokens {limits.tokens} and pack_views {limits.views}; use a "
        f"global_batch that is a multiple of {world_size}, or larger limits"
    )


def plan_epoch(
    rows: PackRows,
    limits: PackLimits,
    *,
    global_batch: int,
    world_size: int = 1,
    epochs: float = 1.0,
    max_steps: int | None = None,
    seed: int,
    update_batches: int | None = None,
) -> RunPlan:
    """Pack every epoch as a whole, each row once: full bins, and in an update only bins of similar FLOPs.

    The number of micro-batches of an update brings its mean number of rows closest to `global_batch`, or it is
    `update_batches` over all ranks. A resumed run passes `update_batches`, so its plan is the same on another number of
    ranks. If `epochs` is not whole, the last part has at least `global_batch` rows. Raises `ValueError` if a row
    exceeds a limit, there are too few rows, or `update_batches` does not divide by the number of ranks.
    """
    _check_limits(rows, limits)
    if len(rows) < max(global_batch, world_size):
        raise ValueError(
            f"there are {len(rows)} usable rows, fewer than global_batch {global_batch} or the {world_size} processes; "
            f"use more data, a smaller batch or fewer processes"
        )
    if update_batches is not None:
        check_micro_batches(update_batches, world_size)
    n_bins = update_batches or 0
    parts: list[Bins] = []
    for epoch, order in enumerate(_shuffled_epochs(len(rows), global_batch, epochs, max_steps, seed)):
        windows = _Windows(rows, limits, order)
        if not n_bins:
            mean_rows = len(order) / windows.n_bins.sum()
            n_bins = world_size * max(1, round(global_batch / (world_size * mean_rows)))
        packed = windows.pack(n_bins)
        groups = np.argsort(-packed.totals(rows.flops), kind="stable").reshape(-1, n_bins)
        parts.append(packed.reorder(np.random.default_rng([seed, epoch, 1]).permutation(groups).ravel()))
        if max_steps is not None and sum(len(p.borders) - 1 for p in parts) >= max_steps * n_bins:
            break
    all_rows = np.concatenate([p.rows for p in parts])
    sizes = np.concatenate([np.diff(p.borders) for p in parts])[: max_steps and max_steps * n_bins]
    borders = np.concatenate([[0], np.cumsum(sizes)])
    return RunPlan(all_rows[: borders[-1]], borders, n_bins // world_size, world_size, padded=False)


def check_enough_rows(global_batch: int, world_size: int) -> None:
    """Raise `ValueError` if an update has fewer rows than processes."""
    if global_batch < world_size:
        raise ValueError(
            f"global_batch {global_batch} is smaller than the {world_size} processes, and each needs a row in every "
            f"update; use global_batch {world_size} or more, or at most {global_batch} processes"
        )


def check_micro_batches(update_batches: int, world_size: int) -> None:
    """Raise `ValueError` if the packed micro-batches of an update do not divide by the number of processes."""
    if update_batches < 1 or update_batches % world_size:
        raise ValueError(
            f"the {update_batches} packed micro-batches of an update do not divide among {world_size} processes; use "
            f"a number of processes that divides them"
        )


@dataclass(frozen=True)
class Bins:
    """The rows of all bins, concatenated: int64 rows [N], and borders [B + 1]."""

    rows: np.ndarray
    borders: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, bins: np.ndarray, n_bins: int) -> Bins:
        """Build it from the bin of each row. The rows of a bin keep their order."""
        order = np.argsort(bins, kind="stable")
        return cls(rows[order], np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=n_bins))]))

    def totals(self, values: np.ndarray) -> np.ndarray:
        """[B]: the sum of each bin's values, [N] by row. No bin is empty."""
        sums: np.ndarray = np.add.reduceat(values[self.rows], self.borders[:-1])
        return sums

    def reorder(self, order: np.ndarray) -> Bins:
        """The same bins in another order."""
        sizes = np.diff(self.borders)[order]
        borders = np.concatenate([[0], np.cumsum(sizes)])
        return Bins(self.rows[np.repeat(self.borders[order] - borders[:-1], sizes) + np.arange(borders[-1])], borders)


class _Windows:
    """The rows of an epoch in windows of equal size, each packed into as few bins as possible."""

    def __init__(self, rows: PackRows, limits: PackLimits, order: np.ndarray) -> None:
        self.rows, self.limits = rows, limits
        n_windows = max(1, round(limits.least_bins(rows, order) / _BINS_AT_ONCE))
        width = -(-len(order) // n_windows)
        self.windows = [order[start : start + width] for start in range(0, len(order), width)]
        self.n_bins = np.zeros(len(self.windows), dtype=np.int64)
        self.bins: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(self.windows)
        for i, d in enumerate(self.windows):
            self.n_bins[i] = math.ceil(limits.least_bins(rows, d))
        self._deal(np.arange(len(self.windows)))

    def pack(self, multiple: int) -> Bins:
        """All bins. Some windows use more bins, so that the total is a multiple."""
        n_rows = np.array([len(d) for d in self.windows])
        while (missing := -int(self.n_bins.sum()) % multiple) > 0:
            if int(self.n_bins.sum()) + missing > n_rows.sum():
                raise ValueError(
                    f"{n_rows.sum()} rows cannot be cut into a multiple of {multiple} micro-batches, each with a row, "
                    f"under pack_tokens {self.limits.tokens} and pack_views {self.limits.views}; use more data, larger "
                    f"limits, a smaller global_batch or fewer processes"
                )
            before = self.n_bins.copy()
            while missing > 0:
                grown = np.flatnonzero(self.n_bins < n_rows)[:missing]
                self.n_bins[grown] += 1
                missing -= len(grown)
            self._deal(np.flatnonzero(self.n_bins > before))
        offsets = np.cumsum(self.n_bins) - self.n_bins
        bins = np.concatenate([b + offset for b, offset in zip(self.bins, offsets, strict=True)])
        return Bins.of(np.concatenate(self.windows), bins, int(self.n_bins.sum()))

    def _deal(self, windows: np.ndarray) -> None:
        """Pack these windows. If one needed an extra bin, pack it again with more bins, so that bins are similar."""
        while len(windows):
            width = max(len(self.windows[i]) for i in windows)
            drawn_SG = np.full((len(windows), width), -1)
            for k, i in enumerate(windows):
                drawn_SG[k, : len(self.windows[i])] = self.windows[i]
            dealt = _deal(self.rows, self.limits, drawn_SG, self.n_bins[windows], by="fill", may_open=True)
            for k, i in enumerate(windows):
                self.bins[i] = dealt.bins[k, : len(self.windows[i])]
            opened = dealt.n_bins > self.n_bins[windows]
            self.n_bins[windows] = dealt.n_bins
            windows = windows[opened]


@dataclass(frozen=True)
class _Dealt:
    """bins int64 [S, G]; n_bins int64 [S], extra bins included; failed bool [S]: a row did not fit anywhere."""

    bins: np.ndarray
    n_bins: np.ndarray
    failed: np.ndarray


def _deal_steps(rows: PackRows, limits: PackLimits, drawn_SG: np.ndarray, n_bins: int) -> np.ndarray | None:
    """The bin of each row, balanced by FLOPs, or by size if a row does not fit; None if no plan was found."""
    every = np.full(len(drawn_SG), n_bins)
    dealt = _deal(rows, limits, drawn_SG, every, by="flops")
    bins_SG, again = dealt.bins, np.flatnonzero(dealt.failed)
    if len(again):
        dealt = _deal(rows, limits, drawn_SG[again], every[again], by="fill")
        if dealt.failed.any():
            return None
        bins_SG[again] = dealt.bins
    return bins_SG


def _deal(
    rows: PackRows,
    limits: PackLimits,
    drawn_SG: np.ndarray,
    n_bins_S: np.ndarray,
    *,
    by: Literal["flops", "fill"],
    may_open: bool = False,
) -> _Dealt:
    """Assign rows, largest first, to the least loaded bin that has room, for all problems at once; -1 is no row.

    may_open: a row that fits nowhere opens another bin.
    """
    S, G = drawn_SG.shape
    tokens, views, flops = (np.where(drawn_SG >= 0, x[drawn_SG], 0) for x in (rows.tokens, rows.views, rows.flops))
    shares = np.stack([tokens / limits.tokens, views / limits.views])
    order_SG = np.argsort(-(flops if by == "flops" else shares.max(axis=0)), axis=1, kind="stable")
    weight = flops if by == "flops" else shares.sum(axis=0)
    tokens, views, weight = (np.take_along_axis(x, order_SG, axis=1) for x in (tokens, views, weight))
    every, n_bins, failed = np.arange(S), n_bins_S.copy(), np.zeros(S, dtype=bool)
    load = np.where(np.arange(n_bins.max()) < n_bins[:, None], 0.0, np.inf)
    free_tokens, free_views = (np.full(load.shape, limit) for limit in (limits.tokens, limits.views))
    bins_SG = np.empty((S, G), dtype=np.int64)
    for i in range(G):
        chosen = load.argmin(axis=1)
        full = (free_tokens[every, chosen] < tokens[:, i]) | (free_views[every, chosen] < views[:, i])
        if full.any():
            tight = np.flatnonzero(full)
            room = (free_tokens[tight] >= tokens[tight, i, None]) & (free_views[tight] >= views[tight, i, None])
            fullest = np.where(room & np.isfinite(load[tight]), load[tight], -1.0)
            chosen[tight] = fullest.argmax(axis=1)
            nowhere = tight[fullest.max(axis=1) < 0]
            failed[nowhere] = True
            if len(nowhere) and may_open:
                chosen[nowhere] = n_bins[nowhere]
                n_bins[nowhere] += 1
                if n_bins.max() > load.shape[1]:
                    load = np.pad(load, ((0, 0), (0, 1)), constant_values=np.inf)
                    free_tokens = np.pad(free_tokens, ((0, 0), (0, 1)), constant_values=limits.tokens)
                    free_views = np.pad(free_views, ((0, 0), (0, 1)), constant_values=limits.views)
                load[nowhere, chosen[nowhere]] = 0.0
        free_tokens[every, chosen] -= tokens[:, i]
        free_views[every, chosen] -= views[:, i]
        load[every, chosen] += weight[:, i]
        bins_SG[every, order_SG[:, i]] = chosen
    return _Dealt(bins_SG, n_bins, failed)


def _shuffled_epochs(
    n_rows: int, global_batch: int, epochs: float, max_steps: int | None, seed: int
) -> Iterator[np.ndarray]:
    """The rows of each epoch in shuffled order; endless if the number of updates is given."""
    epoch = 0
    while max_steps is not None or epochs - epoch > 1e-9:
        share = 1.0 if max_steps is not None else min(1.0, epochs - epoch)
        n = min(n_rows, max(global_batch, math.ceil(share * n_rows - 1e-9)))
        yield np.random.default_rng([seed, epoch]).permutation(n_rows)[:n]
        epoch += 1


def _check_limits(rows: PackRows, limits: PackLimits) -> None:
    for name, values, limit in (("tokens", rows.tokens, limits.tokens), ("views", rows.views, limits.views)):
        above = np.flatnonzero(values > limit)
        if len(above):
            raise ValueError(
                f"{len(above)} of {len(rows)} rows have more {name} than a micro-batch may hold, pack_{name} {limit} "
                f"(the first is row {above[0]} of those that can be used, with {values[above[0]]}); set pack_{name} to "
                f"{values.max()} or more, or leave these rows out"
            )

"""Group the views of a batch by shape, so that attention and pooling run once per shape, not per view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import torch

ViewSize = tuple[int, int]


@dataclass(frozen=True)
class ShapeGroup:
    """Views of one shape: `rows` x `columns` patches each; `indices` are their places in the batch."""

    rows: int
    columns: int
    indices: tuple[int, ...]

    @property
    def n_patches(self) -> int:
        """Patches of one view."""
        return self.rows * self.columns


class ViewGroups:
    """The views of a batch, sorted by their number of patches and then by shape.

    Modules with parameters run on all patches at once, in sorted order. So every rank calls each module equally often,
    whatever shapes its batch holds; ZeRO-3 and FSDP need that. Only attention and pooling loop over shapes.
    """

    def __init__(self, sizes: Sequence[ViewSize]) -> None:
        if bad := [s for s in sizes if s[0] < 1 or s[1] < 1]:
            raise ValueError(f"a view must have at least one patch a side, got {bad[0]}")
        self.sizes = tuple(sizes)
        shapes = sorted(set(self.sizes), key=lambda s: (s[0] * s[1], s))
        self.groups = tuple(
            ShapeGroup(rows, columns, tuple(i for i, s in enumerate(self.sizes) if s == (rows, columns)))
            for rows, columns in shapes
        )

    # Groups are cached for later batches. So no tensor may be from inference mode, because autograd refuses those.

    @cached_property
    @torch.inference_mode(False)
    def view_order(self) -> torch.Tensor:
        """int64 [V]: the batch's views in sorted order."""
        return torch.tensor([i for g in self.groups for i in g.indices])

    @cached_property
    @torch.inference_mode(False)
    def view_order_inverse(self) -> torch.Tensor:
        """int64 [V]: where each view of the batch stands in sorted order."""
        return torch.argsort(self.view_order)

    @cached_property
    @torch.inference_mode(False)
    def patch_order(self) -> torch.Tensor:
        """int64 [P]: the batch's patches in sorted order."""
        counts = [h * w for h, w in self.sizes]
        starts = [0, *accumulate(counts)]
        return torch.cat([torch.arange(starts[i], starts[i] + counts[i]) for g in self.groups for i in g.indices])

    @cached_property
    @torch.inference_mode(False)
    def patch_order_inverse(self) -> torch.Tensor:
        """int64 [P]: where each patch of the batch stands in sorted order."""
        return torch.argsort(self.patch_order)

    @cached_property
    @torch.inference_mode(False)
    def pooling_order(self) -> torch.Tensor:
        """int64 [P]: the batch's patches group by group, within a group by place (row-major) and then by view."""
        parts, start = [], 0
        for group in self.groups:
            n = len(group.indices) * group.n_patches
            parts.append(self.patch_order[start : start + n].view(-1, group.n_patches).T.flatten())
            start += n
        return torch.cat(parts)

    @property
    def n_patches(self) -> int:
        """Patches of all views."""
        return sum(h * w for h, w in self.sizes)

    def attention_runs(self, extra: int) -> tuple[tuple[int, int], ...]:
        """(views, length) of each run of sorted views with equal sequence length, `extra` tokens beside the patches."""
        runs: dict[int, int] = {}
        for group in self.groups:
            runs[group.n_patches + extra] = runs.get(group.n_patches + extra, 0) + len(group.indices)
        return tuple((n, length) for length, n in runs.items())

    def borders(self, extra: int, device: torch.device) -> torch.Tensor:
        """int32 [V + 1]: where each sorted view's tokens start, and the end; for kernels of variable length."""
        lengths = [length for n, length in self.attention_runs(extra) for _ in range(n)]
        return sent(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)


def sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device. A GPU gets it from pinned memory, so that the host does not wait for all earlier work."""
    if device.type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=256)
def _group(sizes: tuple[ViewSize, ...]) -> ViewGroups:
    return ViewGroups(sizes)


def group_views(view_sizes: Any, n_patches: int) -> ViewGroups:
    """The groups of a batch. view_sizes: int [V, 2] (rows, columns), tensor or array.

    Raises `ValueError` on a wrong sum.
    """
    groups = _group(tuple((int(h), int(w)) for h, w in view_sizes.tolist()))
    if groups.n_patches != n_patches:
        raise ValueError(f"view_sizes describe {groups.n_patches} patches but there are {n_patches}")
    return groups

"""Plan the slices of an image: the size of its thumbnail, the grid of its slices and the size of one slice.

This is the arithmetic of LLaVA-UHD v1, ties included, because trained weights depend on it. Sizes are (width, height)
in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

Size = tuple[int, int]


@dataclass(frozen=True)
class SlicePlan:
    """The views of an image. `grid` is (columns, rows); `grid` and `slice_size` are None if it is not sliced."""

    thumbnail_size: Size
    grid: tuple[int, int] | None = None
    slice_size: Size | None = None

    @property
    def n_slices(self) -> int:
        """Number of slices, 0 when the image is not sliced."""
        return self.grid[0] * self.grid[1] if self.grid else 0

    @property
    def resized_size(self) -> Size | None:
        """The size the whole image is resized to before it is cut into slices."""
        if self.grid is None or self.slice_size is None:
            return None
        return self.slice_size[0] * self.grid[0], self.slice_size[1] * self.grid[1]

    def views(self, patch_size: int = 14) -> tuple[tuple[int, int], ...]:
        """(rows, columns) in patches of each view: the slices, then the thumbnail."""
        slices = [self.slice_size] * self.n_slices if self.slice_size else []
        return tuple((height // patch_size, width // patch_size) for width, height in (*slices, self.thumbnail_size))

    def without_slices(self) -> SlicePlan:
        """The plan with only the thumbnail (the align stage uses one view per image)."""
        return SlicePlan(self.thumbnail_size)


@lru_cache(maxsize=65536)
def plan_slices(width: int, height: int, *, scale: int = 336, patch_size: int = 14, max_slices: int = 7) -> SlicePlan:
    """The plan for an image of `width` x `height` pixels; one view covers about `scale` x `scale` pixels.

    Raises `ValueError` for a size below one pixel.
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image must have at least one pixel, got {width}x{height}")
    area = scale * scale
    n = min(-(-width * height // area), max_slices)
    if n <= 1:
        return SlicePlan(_fit(width, height, scale, patch_size, enlarge=True))
    columns, rows = _best_grid(width, height, n, max_slices)
    cell = max(width // columns, 1), max(height // rows, 1)
    return SlicePlan(
        thumbnail_size=_fit(width, height, scale, patch_size, enlarge=False),
        grid=(columns, rows),
        slice_size=_fit(*cell, scale, patch_size, enlarge=True),
    )


def _fit(width: int, height: int, scale: int, patch_size: int, *, enlarge: bool) -> Size:
    """The size of about `scale`^2 pixels with this aspect, floored to whole patches (at least one patch a side)."""
    if width * height > scale * scale or enlarge:
        ratio = width / height
        height = int(scale / math.sqrt(ratio))
        width = int(height * ratio)
    return max(width // patch_size, 1) * patch_size, max(height // patch_size, 1) * patch_size


def _best_grid(width: int, height: int, n: int, max_slices: int) -> tuple[int, int]:
    """The (columns, rows) nearest in log aspect among those with n-1, n or n+1 slices; the first one wins ties."""
    # Subtract two logarithms; the logarithm of the quotient rounds differently. For a square image and six slices
    # the result differs in the last bit between 3x2 and 2x3, and trained weights expect 3 columns x 2 rows.
    log_ratio = math.log(width / height)
    best, best_error = (1, 1), math.inf
    for count in (n - 1, n, n + 1):
        if count == 1 or count > max_slices:
            continue
        for columns in (m for m in range(1, count + 1) if count % m == 0):
            error = abs(log_ratio - math.log(columns / (count // columns)))
            if error < best_error:
                best, best_error = (columns, count // columns), error
    return best

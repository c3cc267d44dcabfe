"""Turn a slice grid into the exact token sequence of an image, and give the order of its features.

The slices' G x G feature maps are stitched into one map of (G * rows) x (G * columns). The map is flattened row by row,
with a row separator after each feature row. A group separator and the G x G thumbnail follow. An unsliced image is only
its thumbnail, without separators. A grid is (columns, rows), or None / (0, 0) for an unsliced image.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

Grid = tuple[int, int]


class Slot(IntEnum):
    """The kind of one position in an image's token sequence."""

    FEATURE = 0
    ROW_SEPARATOR = 1
    GROUP_SEPARATOR = 2


def is_sliced(grid: Grid | None) -> bool:
    """Whether a grid means slices."""
    return grid is not None and tuple(grid) != (0, 0)


def count_features(grid: Grid | None, query_grid: int) -> int:
    """Number of visual features (placeholders) of an image."""
    n_views = grid[0] * grid[1] + 1 if grid is not None else 1
    return n_views * query_grid**2


def count_tokens(grid: Grid | None, query_grid: int) -> int:
    """Number of tokens of an image, separators included: G*rows*(G*columns+1) + 1 + G*G, or G*G when unsliced."""
    if grid is None or not is_sliced(grid):
        return query_grid**2
    columns, rows = grid
    return query_grid * rows * (query_grid * columns + 1) + 1 + query_grid**2


@lru_cache(maxsize=256)
def image_slots(grid: Grid | None, query_grid: int) -> tuple[Slot, ...]:
    """The token sequence of an image as slots."""
    thumbnail = (Slot.FEATURE,) * query_grid**2
    if grid is None or not is_sliced(grid):
        return thumbnail
    columns, rows = grid
    feature_row = (Slot.FEATURE,) * (query_grid * columns) + (Slot.ROW_SEPARATOR,)
    # The original repeats the image's first separator before the thumbnail. With one column that is a row separator.
    group = Slot.GROUP_SEPARATOR if columns > 1 else Slot.ROW_SEPARATOR
    return feature_row * (query_grid * rows) + (group,) + thumbnail


@lru_cache(maxsize=256)
def image_tokens(
    grid: Grid | None, query_grid: int, *, image_token_id: int, row_separator_id: int, slice_separator_id: int
) -> tuple[int, ...]:
    """The token ids of an image: one placeholder per feature, and the separators as ordinary ids."""
    ids = (image_token_id, row_separator_id, slice_separator_id)
    return tuple(ids[slot] for slot in image_slots(grid, query_grid))


@lru_cache(maxsize=256)
def feature_order(columns: int, rows: int, query_grid: int) -> tuple[int, ...]:
    """For each feature slot, the index of its feature in the resampler's outputs.

    The outputs are ordered by view (slices row-major, then the thumbnail), and row-major in each view's G x G queries.
    `outputs[feature_order(...)]` is the order of the slots. (0, 0) is an unsliced image.
    """
    size = query_grid**2
    order = []
    for y in range(query_grid * rows):
        for x in range(query_grid * columns):
            view = (y // query_grid) * columns + x // query_grid
            order.append(view * size + (y % query_grid) * query_grid + x % query_grid)
    n_slices = columns * rows
    return tuple(order) + tuple(range(n_slices * size, (n_slices + 1) * size))

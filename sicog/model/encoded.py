"""A conversation as model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sicog.model.image_processing import PreparedImage, concatenated_arrays


@dataclass(frozen=True)
class Encoded:
    """One conversation as model inputs.

    labels: the id where supervised (assistant text and its end token), else -100.
    pixel_values: [patches, 3 * p * p], float32 or uint8 (see `SicogImageProcessor`), None without images.
    view_sizes: int64 [views, 2] (rows, columns) in patches.
    image_grids: int64 [images, 2] (columns, rows) of the slices, (0, 0) for an unsliced image.
    """

    input_ids: list[int]
    labels: list[int]
    pixel_values: np.ndarray | None
    view_sizes: np.ndarray
    image_grids: np.ndarray

    @classmethod
    def of(cls, input_ids: list[int], labels: list[int], images: Sequence[PreparedImage]) -> Encoded:
        """From the ids and the prepared images, in the order of their placeholders."""
        sizes = [size for image in images for size in image.view_sizes]
        return cls(
            input_ids=input_ids,
            labels=labels,
            pixel_values=concatenated_arrays([image.pixels for image in images]) if images else None,
            view_sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
            image_grids=np.array([image.grid for image in images], dtype=np.int64).reshape(-1, 2),
        )

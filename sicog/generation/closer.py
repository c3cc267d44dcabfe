"""A closer look: ask about windows of an image one by one, so that labels use more detail than the student sees.

A window is shown alone, either enlarged (`crop`) or at its own place and scale with the rest blank (`spotlight`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from sicog.config import Config

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; left and top inclusive
Share = tuple[float, float, float, float]  # the same in shares of width and height


class StyleCount(Config):
    """A style and its number of samples."""

    style: str
    """Name of the style, such as cod, dd, cot or direct."""
    n: int = Field(default=1, ge=1)
    """Number of samples."""
    prompt: str | None = None
    """Prompt that replaces the style's own; may contain `{question}`."""


class CloserConfig(Config):
    """Windows of an image, asked about one by one in addition to the whole image. Their candidates vote in `sicog
    claims` and are never chosen. Rows must have one image. The cost is windows times styles."""

    columns: int = Field(default=3, ge=1, le=8)
    """Number of windows from left to right."""
    rows: int = Field(default=3, ge=1, le=8)
    """Number of windows from top to bottom."""
    margin: float = Field(default=0.25, ge=0, le=1)
    """Each window is extended by this share of its side at every edge."""
    show: Literal["crop", "spotlight"] = "crop"
    """`crop` shows only the window, so the model sees it enlarged. `spotlight` keeps its place and scale and fills the
    rest with the image's median colour."""
    styles: tuple[StyleCount, ...] = Field(min_length=1)
    """Styles and sample counts for each window."""


def windows(size: tuple[int, int], closer: CloserConfig) -> list[Box]:
    """The windows of an image of (width, height), row by row. Those of small images may be equal; none is empty."""
    (width, height), found = size, []
    across, down = width / closer.columns, height / closer.rows
    for row in range(closer.rows):
        for column in range(closer.columns):
            left, top = (column - closer.margin) * across, (row - closer.margin) * down
            right, bottom = (column + 1 + closer.margin) * across, (row + 1 + closer.margin) * down
            first = min(width - 1, max(0, round(left))), min(height - 1, max(0, round(top)))
            last = max(first[0] + 1, min(width, round(right))), max(first[1] + 1, min(height, round(bottom)))
            found.append((*first, *last))
    return found


def shares(box: Box, size: tuple[int, int]) -> Share:
    """The box as shares of (width, height), rounded to 1e-4."""
    (left, top, right, bottom), (width, height) = box, size
    return round(left / width, 4), round(top / height, 4), round(right / width, 4), round(bottom / height, 4)


def window_image(image: Image.Image, box: Box, closer: CloserConfig) -> Image.Image:
    """The RGB image that is shown for a window."""
    if closer.show == "crop":
        return image.crop(box)
    pixels = np.asarray(image)
    blank = np.median(pixels.reshape(-1, pixels.shape[-1]), axis=0).astype(pixels.dtype)
    found = np.empty_like(pixels)
    found[:] = blank
    left, top, right, bottom = box
    found[top:bottom, left:right] = pixels[top:bottom, left:right]
    return Image.fromarray(found)


def window_size(size: tuple[int, int], box: Box, closer: CloserConfig) -> tuple[int, int]:
    """(width, height) of the result of `window_image`."""
    return (box[2] - box[0], box[3] - box[1]) if closer.show == "crop" else size

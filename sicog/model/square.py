"""Show an image as one square view: resized to fit, centred, without slices. Sizes are (width, height)."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from sicog.model.slicing import Size, SlicePlan


def plan_square(side: int, patch_size: int) -> SlicePlan:
    """The plan of every image: one view of `side` x `side` pixels. Raises `ValueError` unless it is whole patches."""
    if side % patch_size:
        raise ValueError(
            f"a square view of {side} pixels is not a whole number of patches of {patch_size}. Change scale"
        )
    return SlicePlan((side, side))


def fitted_size(width: int, height: int, side: int) -> Size:
    """The size of the picture within the square: its longer side fills it, the aspect is kept."""
    longer = max(width, height)
    return max(round(width * side / longer), 1), max(round(height * side / longer), 1)


def padded_square(image: Image.Image, side: int, background: Sequence[float]) -> Image.Image:
    """An RGB image on a square. background: RGB as fractions of 1.

    It is resized before it is padded, because padding first would make a huge square of an elongated image.
    """
    size = fitted_size(*image.size, side)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    square = Image.new("RGB", (side, side), tuple(round(255 * value) for value in background))
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square

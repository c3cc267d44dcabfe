"""The four image corruptions whose answers serve as rejected ones: blur, colour jitter, mirror and turn, half-plane.

Pillow and numpy only. Every choice comes from (seed, id), so a corrupted run can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from sicog.generation.sampling import stream_key

CorruptionName = Literal["gaussian_blur", "color_jitter", "mirror_rotation", "mask"]
BLUR_SIGMA = (3.0, 5.0)
JITTER = 0.8  # brightness, contrast and saturation are scaled by 1 - JITTER .. 1 + JITTER
HUE_SHIFT = 0.2  # of the full circle, either way
MASK_SHARE = (0.25, 0.35)


def corrupt(image: Image.Image, pool: Sequence[CorruptionName], seed: int, image_id: str) -> Image.Image:
    """The RGB image under one method drawn from `pool` by (seed, id). An empty pool gives the image as it is."""
    if not pool:
        return image
    rng = np.random.Generator(np.random.Philox(key=stream_key("corruption", seed, image_id)))
    return METHODS[pool[int(rng.integers(len(pool)))]](image.convert("RGB"), rng)


def gaussian_blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur with a standard deviation of 3 to 5 pixels."""
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(*BLUR_SIGMA))))


def color_jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue, each by its own factor, in a random order."""
    factors = rng.uniform(1 - JITTER, 1 + JITTER, size=3)
    shift = float(rng.uniform(-HUE_SHIFT, HUE_SHIFT))
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for step in rng.permutation(4):
        image = _shift_hue(image, shift) if step == 3 else enhancers[step](image).enhance(float(factors[step]))
    return image


def mirror_rotation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Flipped left to right, then turned by 90 or 270 degrees."""
    turn = Image.Transpose.ROTATE_90 if rng.integers(2) else Image.Transpose.ROTATE_270
    return ImageOps.mirror(image).transpose(turn)


def mask(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random half-plane over 25 to 35 % of the image, filled with its own mean colour."""
    angle, share = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(*MASK_SHARE))
    pixels = np.array(image)
    covered = half_plane(image.width, image.height, angle, share)
    if covered.any():
        pixels[covered] = pixels[covered].mean(axis=0).round().astype(np.uint8)
    return Image.fromarray(pixels)


def half_plane(width: int, height: int, angle: float, share: float) -> np.ndarray:
    """bool [height, width]: the pixels beyond a line of this direction that cuts off `share` (at most 0.5) of the area.

    The distance of a uniform point of the rectangle along the direction is the sum of two uniform variables of ranges
    a >= b, so its quantile is closed: sqrt(2 a b share) inside the corner triangle, else a share + b / 2.
    """
    assert 0 <= share <= 0.5
    dx, dy = math.cos(angle), math.sin(angle)
    a, b = sorted((width * abs(dx), height * abs(dy)), reverse=True)
    depth = math.sqrt(2 * a * b * share) if share * 2 * a <= b else a * share + b / 2
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    along_x = (x if dx >= 0 else width - x) * abs(dx)  # distances from the corner where the half-plane begins
    along_y = (y if dy >= 0 else height - y) * abs(dy)
    return along_x[None, :] + along_y[:, None] < depth


def _shift_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    table = [(level + round(shift * 255)) % 256 for level in range(256)]
    return Image.merge("HSV", (hue.point(table), saturation, value)).convert("RGB")


METHODS: Mapping[CorruptionName, Callable[[Image.Image, np.random.Generator], Image.Image]] = MappingProxyType(
    {
        "gaussian_blur": gaussian_blur,
        "color_jitter": color_jitter,
        "mirror_rotation": mirror_rotation,
        "mask": mask,
    }
)

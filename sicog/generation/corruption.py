"""The four image corruptions for rejected answers: blur, colour jitter, mirror and turn, half-plane.

Uses only Pillow and numpy. The corruption of an image is sampled from (seed, id) before the image is read. It is stored
in a record, and `apply` reproduces it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from pydantic import AfterValidator

from sicog.records import Corruption
from sicog.seeds import stream_key

BLUR_SIGMA = (3.0, 5.0)
JITTER = 0.8  # brightness, contrast and saturation are scaled by 1 - JITTER .. 1 + JITTER
HUE_SHIFT = 0.2  # largest hue shift as a share of the full circle, in both directions
MASK_SHARE = (0.25, 0.35)

Draw = Callable[[np.random.Generator], dict[str, Any]]
Apply = Callable[..., Image.Image]


def _check_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"unknown corruption {name!r}; known: {', '.join(METHODS)}")
    return name


CorruptionName = Annotated[str, AfterValidator(_check_method)]


def add_corruption(name: str, draw: Draw, apply: Apply) -> None:
    """Add a method in this process. Raises `ValueError` if another method has that name.

    draw: samples the parameters with a generator. apply: gets the RGB image and the parameters, and returns an RGB
    image of the same size. Worker processes import the main script again, so the script may add methods. The tasks of a
    SLURM array do not.
    """
    if _METHODS.setdefault(name, (draw, apply)) != (draw, apply):
        raise ValueError(f"corruption {name!r} already exists. Choose another name")


def draw_corruption(pool: Sequence[CorruptionName], seed: int, image_id: str) -> Corruption:
    """Sample one method of the pool and its parameters, by (seed, id)."""
    rng = np.random.Generator(np.random.Philox(key=stream_key("corruption", seed, image_id)))
    method = pool[int(rng.integers(len(pool)))]
    return Corruption(method=method, parameters=METHODS[method][0](rng))


def apply(image: Image.Image, corruption: Corruption) -> Image.Image:
    """The image, as RGB, after this corruption."""
    return METHODS[corruption.method][1](image.convert("RGB"), **corruption.parameters)


def turns(corruption: Corruption) -> bool:
    """Whether the corruption swaps width and height."""
    return corruption.method == "mirror_rotation"


def _draw_blur(rng: np.random.Generator) -> dict[str, Any]:
    return {"sigma": float(rng.uniform(*BLUR_SIGMA))}


def gaussian_blur(image: Image.Image, sigma: float) -> Image.Image:
    """Blur with a standard deviation of `sigma` pixels."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def _draw_jitter(rng: np.random.Generator) -> dict[str, Any]:
    brightness, contrast, saturation = map(float, rng.uniform(1 - JITTER, 1 + JITTER, size=3))
    hue = float(rng.uniform(-HUE_SHIFT, HUE_SHIFT))
    order = tuple(map(int, rng.permutation(4)))
    return {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue, "order": order}


def color_jitter(
    image: Image.Image, brightness: float, contrast: float, saturation: float, hue: float, order: Sequence[int]
) -> Image.Image:
    """Brightness, contrast, saturation and hue (numbers 0 to 3 of `order`), each by its own factor."""
    steps: list[Callable[[Image.Image], Image.Image]] = [
        lambda x: ImageEnhance.Brightness(x).enhance(brightness),
        lambda x: ImageEnhance.Contrast(x).enhance(contrast),
        lambda x: ImageEnhance.Color(x).enhance(saturation),
        lambda x: _shift_hue(x, hue),
    ]
    for number in order:
        image = steps[number](image)
    return image


def _draw_turn(rng: np.random.Generator) -> dict[str, Any]:
    return {"degrees": 90.0 if rng.integers(2) else 270.0}


def mirror_rotation(image: Image.Image, degrees: float) -> Image.Image:
    """Flipped left to right, then turned counter-clockwise by 90 or 270 degrees."""
    turn = Image.Transpose.ROTATE_90 if degrees == 90 else Image.Transpose.ROTATE_270
    return ImageOps.mirror(image).transpose(turn)


def _draw_mask(rng: np.random.Generator) -> dict[str, Any]:
    return {"angle": float(rng.uniform(0, 2 * math.pi)), "share": float(rng.uniform(*MASK_SHARE))}


def mask(image: Image.Image, angle: float, share: float) -> Image.Image:
    """A half-plane over `share` of the image, filled with its own mean colour. The direction is in radians."""
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
    along_x = (x if dx >= 0 else width - x) * abs(dx)  # distances from the corner where the half-plane starts
    along_y = (y if dy >= 0 else height - y) * abs(dy)
    return along_x[None, :] + along_y[:, None] < depth


def _shift_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    table = [(level + round(shift * 255)) % 256 for level in range(256)]
    return Image.merge("HSV", (hue.point(table), saturation, value)).convert("RGB")


# For each method: the function that samples its parameters, and the method itself.
_METHODS: dict[str, tuple[Draw, Apply]] = {
    "gaussian_blur": (_draw_blur, gaussian_blur),
    "color_jitter": (_draw_jitter, color_jitter),
    "mirror_rotation": (_draw_turn, mirror_rotation),
    "mask": (_draw_mask, mask),
}
METHODS: Mapping[str, tuple[Draw, Apply]] = _METHODS

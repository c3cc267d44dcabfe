"""Noise for training images, so that the student sees other pixels than the model that labelled them.

The student then cannot just repeat its teacher (noisy student: Xie et al. 2020, arXiv 1911.04252). Image sizes do not
change, so slices and token counts do not change either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from sicog.data.config import NoiseConfig
from sicog.records import Turn
from sicog.seeds import stream_key

_SIDES = re.compile(r"\b(left|right)(?=most\b|-hand\b|ward\b|wards\b|\b)", re.IGNORECASE)


@dataclass(frozen=True)
class RowNoise:
    """The noise of a training, applied row by row."""

    config: NoiseConfig
    seed: int

    def mirrors(self, row_id: str) -> bool:
        """Whether the row is mirrored."""
        return bool(self._rng("mirror", row_id).random() < self.config.mirror)

    def images(self, row_id: str, images: Sequence[Image.Image], *, mirrored: bool) -> list[Image.Image]:
        """The row's RGB images with noise. Sizes do not change."""
        return [self._one(image, self._rng(f"image-{k}", row_id), mirrored) for k, image in enumerate(images)]

    def _rng(self, what: str, row_id: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=stream_key(f"noise-{what}", self.seed, row_id)))

    def _one(self, image: Image.Image, rng: np.random.Generator, mirrored: bool) -> Image.Image:
        if mirrored:
            image = ImageOps.mirror(image)
        if self.config.jitter:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhance(image).enhance(float(rng.uniform(1 - self.config.jitter, 1 + self.config.jitter)))
        if self.config.scale:
            image = _shrink(image, 1 - float(rng.uniform(0, self.config.scale)), rng)
        if self.config.cutout:
            image = _cut_out(image, float(rng.uniform(0, self.config.cutout)), rng)
        return image


def swap_left_right(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns with `left` and `right` swapped, also in words such as leftmost. Capitalisation is kept."""
    return tuple(turn.model_copy(update={"text": _SIDES.sub(_other_side, turn.text)}) for turn in turns)


def _other_side(found: re.Match[str]) -> str:
    word = found[0]
    other = "right" if word.lower() == "left" else "left"
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def _shrink(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """The image at this share of its sides, somewhere on a canvas of its size and its median colour."""
    width, height = (max(1, round(side * share)) for side in image.size)
    median = np.median(np.asarray(image).reshape(-1, 3), axis=0)
    canvas = Image.new("RGB", image.size, tuple(int(v) for v in median))
    place = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    canvas.paste(image.resize((width, height), Image.Resampling.BICUBIC), place)
    return canvas


def _cut_out(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """A rectangle of the image's shape over this share of its area, filled with the mean colour."""
    width, height = (round(side * share**0.5) for side in image.size)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    pixels = np.array(image)
    pixels[top : top + height, left : left + width] = pixels.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    return Image.fromarray(pixels)

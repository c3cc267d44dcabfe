"""Decode image files to upright RGB, with clear errors. Needs no torch."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from sicog.model.slicing import Size  # sicog.model registers itself with Transformers, by way of this file

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte of RGB
# Errors of Pillow's decoders on broken files, found by experiments.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)
_EXIF_ORIENTATION, _TIFF_WIDTH = 0x0112, 0x0100


def load_image(source: str | Path | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image completely: first frame, EXIF rotation applied, RGB.

    Raises `ValueError` with the file if it is missing, empty, not an image, damaged, or larger than `max_pixels`.
    """
    name = source if isinstance(source, str | Path) else getattr(source, "name", "image")
    with _open(source, name, max_pixels) as image:
        try:
            image.load()
            rgb = to_rgb(image)
            return rgb.copy() if rgb is image else rgb  # independent of the open file
        except _DECODE_ERRORS as error:
            raise ValueError(f"{name}: the image is damaged ({error})") from error


def image_size(source: str | Path | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Size:
    """(width, height) after EXIF rotation, from the file's header alone. Raises like `load_image`."""
    name = source if isinstance(source, str | Path) else getattr(source, "name", "image")
    with _open(source, name, max_pixels) as image:
        try:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8) and not _is_upright(image)
        except _DECODE_ERRORS:
            turned = False
        return (image.height, image.width) if turned else (image.width, image.height)


def _is_upright(image: Image.Image) -> bool:
    """Whether Pillow already gives the size after rotation, as it does for rotated TIFFs."""
    stored = getattr(image, "tag_v2", {}).get(_TIFF_WIDTH) if image.format == "TIFF" else None
    return stored is not None and image.width != stored


def _open(source: str | Path | IO[bytes], name: Any, max_pixels: int) -> Image.Image:
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise ValueError(f"{name}: no such image file")
        if Path(source).stat().st_size == 0:
            raise ValueError(f"{name}: the image file is empty")
    try:
        image = Image.open(source)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: too many pixels ({error})") from error
    except _DECODE_ERRORS as error:
        raise ValueError(f"{name}: not a decodable image ({type(error).__name__})") from error
    if image.width * image.height > max_pixels:
        image.close()
        raise ValueError(f"{name}: {image.width}x{image.height} pixels are more than {max_pixels}")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright and in RGB: transparency over white, 16-bit grey scaled to 8 bit (not cut off)."""
    with suppress(*_DECODE_ERRORS):  # with damaged metadata the image stays as stored
        image.load()
        if (
            image.getexif().get(_EXIF_ORIENTATION, 1) != 1
        ):  # checked first, because transposing copies even upright images
            image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_rgb(np.asarray(image, dtype=np.float64))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        # Colours under full transparency are arbitrary, often black. Viewers show white.
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _grey_to_rgb(grey: np.ndarray) -> Image.Image:
    """Grey levels of unknown depth as RGB: up to 1 is a fraction, up to 255 is 8 bit, above is 16 bit."""
    top = float(np.nanmax(grey, initial=0.0))
    factor = 255.0 if top <= 1 else 1.0 if top <= 255 else 255.0 / 65535.0
    levels = np.clip(np.nan_to_num(grey) * factor, 0, 255).round().astype(np.uint8)
    return Image.fromarray(levels, mode="L").convert("RGB")

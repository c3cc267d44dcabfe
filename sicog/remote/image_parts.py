"""Prepare an image for a request: upright, with limited size, with its real media type."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from sicog.data.image_folder import Readable, open_image_source
from sicog.model.image_files import image_size, load_image

# Formats that every endpoint accepts. Other formats, rotated images and too large ones are sent as JPEG.
_SENT_AS_IT_IS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_PLAIN_MODES = ("RGB", "L")
_EXIF_ORIENTATION = 0x0112
_QUALITY = 92


class SentPicture(Protocol):
    """Image of a request; `Picture` is an image file."""

    def identity(self) -> dict[str, object]:
        """Return the image's part of the request key. Raises `OSError` when the image is unreadable."""

    def tokens(self, pixels_per_token: float) -> int:
        """Return the approximate number of tokens of the image."""

    def data_url(self) -> str:
        """Return the image as a `data:` URL. Raises `ValueError` when it is unreadable."""


@dataclass(frozen=True)
class Picture:
    """An image file that is read when its request is sent. max_side: maximum of the longer side, in pixels."""

    found: Readable
    max_side: int

    def identity(self) -> dict[str, object]:
        """Return the image's part of the request key: the file's content and the preparation."""
        return {"sha256": hashlib.sha256(self._bytes()).hexdigest(), "max_side": self.max_side}

    def size(self) -> tuple[int, int]:
        """Return (width, height) as sent, from the file's header. Raises `ValueError` like `load_image`."""
        width, height = image_size(open_image_source(self.found))
        factor = min(1.0, self.max_side / max(width, height))
        return max(1, round(width * factor)), max(1, round(height * factor))

    def tokens(self, pixels_per_token: float) -> int:
        """Return the approximate number of tokens of the image. Raises `ValueError` like `load_image`."""
        width, height = self.size()
        return math.ceil(width * height / pixels_per_token)

    def data_url(self) -> str:
        """Return the image as a `data:` URL. Raises `ValueError` when the file does not decode."""
        rgb = load_image(open_image_source(self.found))  # always decode: refuse a damaged file here
        with Image.open(open_image_source(self.found)) as image:
            upright = image.getexif().get(_EXIF_ORIENTATION, 1) == 1
            still = getattr(image, "n_frames", 1) == 1
            plain = still and image.mode in _PLAIN_MODES and "transparency" not in image.info
            media = _SENT_AS_IT_IS.get(image.format or "")
        if media and upright and plain and rgb.size == self.size():
            return _url(media, self._bytes())
        buffer = io.BytesIO()
        rgb.resize(self.size(), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=_QUALITY)
        return _url("image/jpeg", buffer.getvalue())

    def _bytes(self) -> bytes:
        return self.found.read_bytes() if isinstance(self.found, Path) else self.found.open().read()


def _url(media: str, data: bytes) -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"

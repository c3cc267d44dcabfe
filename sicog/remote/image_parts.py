"""An image as a request carries it: upright, not larger than asked, with its real media type."""

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

# What every endpoint takes as it is. Anything else, and all that is turned or too large, is sent as JPEG.
_SENT_AS_IT_IS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_PLAIN_MODES = ("RGB", "L")
_EXIF_ORIENTATION = 0x0112
_QUALITY = 92


class SentPicture(Protocol):
    """What a request needs of an image; `Picture` is the one of a file."""

    def identity(self) -> dict[str, object]:
        """What stands for the image in the key of its request. Raises `OSError` when it cannot be read."""

    def tokens(self, pixels_per_token: float) -> int:
        """About how many tokens an endpoint counts for it."""

    def data_url(self) -> str:
        """The image as a `data:` URL. Raises `ValueError` when it cannot be read."""


@dataclass(frozen=True)
class Picture:
    """An image that is read when its request is sent. max_side: of the longer side, in pixels."""

    found: Readable
    max_side: int

    def identity(self) -> dict[str, object]:
        """What stands for the image in the key of its request: the file's content and how it is prepared."""
        return {"sha256": hashlib.sha256(self._bytes()).hexdigest(), "max_side": self.max_side}

    def size(self) -> tuple[int, int]:
        """(width, height) as sent, from the file's header. Raises `ValueError` as `load_image` does."""
        width, height = image_size(open_image_source(self.found))
        factor = min(1.0, self.max_side / max(width, height))
        return max(1, round(width * factor)), max(1, round(height * factor))

    def tokens(self, pixels_per_token: float) -> int:
        """About how many tokens an endpoint counts for it. Raises `ValueError` as `load_image` does."""
        width, height = self.size()
        return math.ceil(width * height / pixels_per_token)

    def data_url(self) -> str:
        """The image as a `data:` URL. Raises `ValueError` when the file does not decode."""
        rgb = load_image(
            open_image_source(self.found)
        )  # decoded in any case: a damaged file is refused here, not by the endpoint
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

"""Images of rows: small ones inside the page for its sample, links to the image folder for all others."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from sicog.data.image_folder import ImageFolder, open_image_source
from sicog.data.images import ImageProblem, check_name
from sicog.data.rows.cache import cache_folder
from sicog.model.image_files import load_image

SIDE = 320  # pixels; a larger image is scaled down to it
PNG_BELOW = 1 << 16  # bytes; a larger image is stored as JPEG
# Without the path, so that a shared page names no folders of this machine.
_NO_PICTURE = {
    "image_missing": "the file is missing",
    "image_refused": "its name or link leads to no file within the image folder",
    "image_damaged": "the file is damaged or is no image",
}


def link_to(page_dir: Path, image_folder: Path) -> str | None:
    """Return the image folder relative to the page in `page_dir`, with `/` at its end, quoted for a URL.

    None for a folder without a relative path (on Windows, another drive), and for a .tar; then only the sample has
    images. A page that is moved without its images shows their names instead.
    """
    if not image_folder.is_dir():
        return None
    try:
        path = os.path.relpath(image_folder.resolve(), page_dir.resolve())
    except ValueError:
        return None
    return quote(path.replace(os.sep, "/")) + "/"


def refusal(image_folder: Path, name: str) -> str | None:
    """Return why the page may not link to this name, or None; the rule for image names, without reading the disk."""
    try:
        check_name(image_folder, name)
    except ImageProblem as problem:
        return _NO_PICTURE[problem.reason]
    return None


def inline_images(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return each image as `src` and its original `size` (width, height), or `missing` with the reason.

    folder: folder of the images, or a .tar of them; it may be missing.
    """
    images = ImageFolder(folder, cache=cache_folder()) if folder.exists() else None
    return {
        name: _inline_image(images, name) if images else {"missing": _NO_PICTURE["image_missing"]} for name in names
    }


def _inline_image(images: ImageFolder, name: str) -> dict[str, Any]:
    try:
        src, size = data_url(images, name)
    except ImageProblem as problem:  # one bad image must not break the page
        return {"missing": _NO_PICTURE.get(problem.reason, problem.reason.replace("_", " "))}
    return {"src": src, "size": size}


def data_url(images: ImageFolder, name: str) -> tuple[str, tuple[int, int]]:
    """Return the image, at most `SIDE` pixels a side, as a data URL, and its original size (width, height).

    Raises `ImageProblem` when it cannot be shown.
    """
    found = images.find(name)
    try:
        picture = load_image(open_image_source(found))
    except ValueError as error:
        raise ImageProblem("image_damaged", f"{name} cannot be shown ({error})") from error
    size = picture.size
    picture.thumbnail((SIDE, SIDE))
    data, kind = _encode(picture, "PNG", optimize=True), "png"
    if len(data) > PNG_BELOW:
        data, kind = _encode(picture, "JPEG", quality=85), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", size


def _encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()

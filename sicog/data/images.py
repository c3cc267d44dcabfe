"""Find an image of a record on disk: every name lies under the image folder, or it is refused. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:(//|\\\\)|^(data|file):", re.IGNORECASE)


class ImageProblem(ValueError):  # noqa: N818 - a value as much as an exception
    """An image that cannot be used; `reason` is the snake_case word for `Dropped`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def require_folder(folder: Path, key: str) -> None:
    """Raise `ValueError` when the image folder (or the .tar that stands for it) does not exist: one mistake, said once,
    where otherwise every row would be dropped. key: what the user calls it."""
    if not folder.exists():
        raise ValueError(f"{key} {folder} does not exist: give the folder that the rows' image names start from")


def resolve_image(folder: Path, name: str, image_roots: Sequence[Path] = ()) -> Path:
    """The file of an image named relative to `folder`.

    Raises `ImageProblem` (a `ValueError`) for names that could leave the folder: absolute ones, `..`, NUL, URLs, and
    links that end neither under the folder nor under one of `image_roots`; and for a file that is not there.
    """
    check_name(folder, name)
    try:
        path = (folder / name).resolve()
        found = path.is_file()
    # A name longer than the file system takes or that it cannot encode; a loop of links (RuntimeError before 3.13).
    except (OSError, UnicodeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageProblem("image_refused", f"{name!r} is not a usable path: {reason}") from error
    if not any(path.is_relative_to(root.resolve()) for root in (folder, *image_roots)):
        raise ImageProblem(
            "image_refused", f"{name!r} is a link out of {folder} to {path}; allow its folder with image_roots"
        )
    if not found:
        raise ImageProblem("image_missing", f"{folder / name} does not exist")
    return path


def check_name(folder: Path, name: str) -> None:
    """Raise `ImageProblem` for a name that could lie elsewhere than in `folder`, whatever is there."""
    if not name or "\0" in name:
        raise ImageProblem("image_refused", f"{name!r} is not a file name; name images relative to {folder}")
    if _URL.match(name):
        raise ImageProblem("image_refused", f"{name!r} is a URL; download it and name the file relative to {folder}")
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute() or PureWindowsPath(name).drive:
        raise ImageProblem("image_refused", f"{name!r} is an absolute path; name images relative to {folder}")
    if ".." in re.split(r"[/\\]", name):
        raise ImageProblem("image_refused", f"{name!r} holds '..'; images must lie under {folder}")

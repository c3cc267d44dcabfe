"""Find the image of a record on disk, and refuse names outside the image folder. Needs no torch."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:(//|\\\\)|^(data|file):", re.IGNORECASE)


class ImageProblem(ValueError):  # noqa: N818 - a value as much as an exception
    """An image that cannot be used; `reason` is the snake_case word for `Dropped`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def require_folder(folder: Path, key: str) -> None:
    """Raise `ValueError` if the image folder (or .tar) does not exist; otherwise every row would be dropped.

    key: the name of the setting, for the message.
    """
    if not folder.exists():
        raise ValueError(
            f"{key} {folder} does not exist. Give the folder that the image names of the rows are relative to"
        )


def resolve_image(folder: Path, name: str, image_roots: Sequence[Path] = (), *, resolved: Path | None = None) -> Path:
    """The file of an image named relative to `folder`. resolved: the folder's own resolved path, if it is known.

    Raises `ImageProblem` (a `ValueError`) for names that could leave the folder: absolute paths, `..`, NUL, URLs, and
    links to places outside the folder and `image_roots`. Also raises it for a missing file.
    """
    check_name(folder, name)
    if (plain := _plain_file(resolved or folder.resolve(), name)) is not None:
        return plain
    try:
        path = (folder / name).resolve()
        found = path.is_file()
    # A name that is too long or cannot be encoded; a loop of links (RuntimeError before 3.13).
    except (OSError, UnicodeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageProblem("image_refused", f"{name!r} is not a usable path: {reason}") from error
    if not any(path.is_relative_to(root.resolve()) for root in (folder, *image_roots)):
        raise ImageProblem(
            "image_refused", f"{name!r} is a link out of {folder} to {path}. Allow that folder with image_roots"
        )
    if not found:
        raise ImageProblem("image_missing", f"{folder / name} does not exist")
    return path


def _plain_file(folder: Path, name: str) -> Path | None:
    """The file below a resolved folder if no part of its name is a link; else None.

    One look at the disk for each part. Resolving looks at every folder above as well, for the file and for each root:
    on a network disk with a million images that is most of the time.
    """
    path, mode = str(folder), 0
    try:
        for part in PurePosixPath(name).parts:
            path = f"{path}/{part}"
            mode = os.lstat(path).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                return None
    except (OSError, ValueError):
        return None
    return Path(path) if stat.S_ISREG(mode) else None


def check_name(folder: Path, name: str) -> None:
    """Raise `ImageProblem` for a name that could be outside `folder`, without a look at the disk."""
    if not name or "\0" in name:
        raise ImageProblem("image_refused", f"{name!r} is not a file name; name images relative to {folder}")
    if _URL.match(name):
        raise ImageProblem("image_refused", f"{name!r} is a URL; download it and name the file relative to {folder}")
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute() or PureWindowsPath(name).drive:
        raise ImageProblem("image_refused", f"{name!r} is an absolute path; name images relative to {folder}")
    if ".." in re.split(r"[/\\]", name):
        raise ImageProblem("image_refused", f"{name!r} holds '..'; images must be under {folder}")

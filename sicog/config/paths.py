"""Paths from users: expand `~`, and handle names that are not UTF-8.

A shell expands `~` only at the start of a word. So YAML values and `key=~/path` still contain it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def expand_home(path: Path) -> Path:
    """The path with a leading `~` or `~user` expanded. If no such user exists, it is an ordinary file name."""
    if not str(path).startswith("~"):
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def as_utf8(name: str) -> str:
    """A name on the disk as text that can be written: bytes that are not UTF-8 as `\\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _expand_home_in_text(text: str) -> str:
    return str(expand_home(Path(text))) if text.startswith("~") else text


# A text in a config that is the name of something, or the path of a file or folder.
NameOrPath = Annotated[str, AfterValidator(_expand_home_in_text)]

"""Checkpoints of a run in progress: complete only when a marker, written last, agrees with the files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sicog.storage import read_json, write_json

MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path) -> None:
    """Write the marker: the names and sizes of all files."""
    write_json(folder / MARKER, {"files": _sizes(folder)})


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file has the size it names."""
    if not (folder / MARKER).is_file():
        return False
    try:
        expected = read_json(folder / MARKER)["files"]
    except (ValueError, KeyError, TypeError):
        return False
    return expected == _sizes(folder)


def newest_complete(run_dir: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    return next((folder for folder in reversed(_checkpoints(run_dir)) if is_complete(folder)), None)


def remove_incomplete(run_dir: Path) -> None:
    """Remove half-written checkpoints, so that nothing is ever added to one."""
    for folder in _checkpoints(run_dir):
        if not is_complete(folder):
            shutil.rmtree(folder)


def keep_newest(run_dir: Path, n: int) -> None:
    """Remove all but the `n` newest checkpoints."""
    for folder in _checkpoints(run_dir)[: -n or None]:
        # The marker goes first: a kill in the middle leaves a folder that is plainly not complete.
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _checkpoints(run_dir: Path) -> list[Path]:
    found = [(int(m.group(1)), p) for p in run_dir.glob("checkpoint-*") if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


def _sizes(folder: Path) -> dict[str, int]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MARKER)
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in files}

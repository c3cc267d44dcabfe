"""Checkpoints of a run in progress: complete only when a marker, written last, agrees with the files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sicog.storage import read_json, write_json

MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-\d+")


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


def keep_newest(run_dir: Path, n: int, every: int | None = None) -> None:
    """Remove all but the `n` newest checkpoints and those whose step is a multiple of `every`."""
    for folder in _checkpoints(run_dir)[: -n or None]:
        if every and _step(folder) % every == 0:
            continue
        # The marker goes first: a kill in the middle leaves a folder that is plainly not complete.
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While a checkpoint is written: what the disk refuses is a `ValueError`, and nothing half-written is left."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch's writer has no error of its own.
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        kept = newest_complete(folder.parent)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise ValueError(
            f"{folder} could not be written: {reason}. {kept.name if kept else 'No earlier checkpoint'} is kept; "
            f"make room or mend the folder, and run the same again to go on"
        ) from error


def _checkpoints(run_dir: Path) -> list[Path]:
    return sorted((path for path in run_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _sizes(folder: Path) -> dict[str, int]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MARKER)
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in files}

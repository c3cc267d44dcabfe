"""Checkpoints of a run in progress. One is complete only if a marker, written last, matches its files.

`checkpoint-N` was saved after update N. `checkpoint-N-universal` is the same for any number of processes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sicog.stages.storage import make_readable, read_json, write_json

MARKER = "complete.json"
UNIVERSAL = "-universal"
_NAME = re.compile(rf"checkpoint-(\d+)({UNIVERSAL})?")
_SHARDS = "global_step*"  # DeepSpeed's folder with the states of each process
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container.cc")


def mark_complete(folder: Path, *, processes: int) -> None:
    """Write the marker: names and sizes of all files, and the number of processes. Make the files world-readable."""
    make_readable(folder)
    write_json(folder / MARKER, {"processes": processes, "files": _sizes(folder)})


def is_complete(folder: Path) -> bool:
    """Whether the marker exists and every file has the size in it."""
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


def saved_by(folder: Path) -> int:
    """The number of processes that saved a complete checkpoint."""
    return int(read_json(folder / MARKER)["processes"])


def is_universal(folder: Path) -> bool:
    """Whether any number of processes can resume from the sharded states of this checkpoint."""
    return folder.name.endswith(UNIVERSAL)


def shards(folder: Path) -> Path | None:
    """DeepSpeed's folder in a checkpoint; None if its states are not sharded."""
    return next(folder.glob(_SHARDS), None)


def check_processes(folder: Path, processes: int) -> None:
    """Raise `ValueError` if this many processes cannot resume from this checkpoint."""
    if shards(folder) is None or is_universal(folder) or (saved := saved_by(folder)) == processes:
        return
    raise ValueError(
        f"{folder} holds the states of {saved} processes in {saved} shards, and {processes} are running; "
        f"start {saved}, or first run: sicog reshard {folder.parent} --processes {processes}"
    )


def remove_incomplete(run_dir: Path) -> None:
    """Remove half-written checkpoints, so nothing is ever added to one."""
    for folder in _checkpoints(run_dir):
        if not is_complete(folder):
            shutil.rmtree(folder)


def keep_newest(run_dir: Path, n: int, every: int | None = None) -> None:
    """Remove all but the `n` newest checkpoints and those whose step is a multiple of `every`."""
    for folder in _checkpoints(run_dir)[: -n or None]:
        if every and _step(folder)[0] % every == 0:
            continue
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint."""
    # Remove the marker first, so that a kill in the middle leaves an incomplete folder.
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)


@contextmanager
def save_or_clean_up(folder: Path) -> Iterator[None]:
    """Context for writing a checkpoint: a disk error becomes a `ValueError`, and half-written files are removed."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch's writer has no error class and hides the system's error.
        of_torch = isinstance(error, RuntimeError)
        if of_torch and not any(name in str(error) for name in _TORCH_WRITER):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        kept = newest_complete(folder.parent)
        system = error.strerror if isinstance(error, OSError) else None
        reason = "the disk is probably full" if of_torch else system or str(error).splitlines()[0]
        raise ValueError(
            f"{folder} could not be written: {reason}. {kept.name if kept else 'No earlier checkpoint'} is kept; "
            f"free disk space or repair the folder, and run the same command again to resume"
        ) from error


def _checkpoints(run_dir: Path) -> list[Path]:
    return sorted((path for path in run_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=_step)


def _step(folder: Path) -> tuple[int, bool]:
    """The step, and whether it is a universal checkpoint, which sorts after its source."""
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[1]), bool(match[2])


def _sizes(folder: Path) -> dict[str, int]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MARKER)
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in files}

"""Modes of files that a run has written."""

from __future__ import annotations

from pathlib import Path


def unreadable(folder: Path) -> list[str]:
    """The files below a folder that only their owner can read."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.stat().st_mode & 0o044)

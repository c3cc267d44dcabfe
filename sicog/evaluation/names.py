"""Names of checkpoints in tables: the folder's name, or the shortest part of the path that is unique."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def unique_tails(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that are all different: `base/stage2` and `next/stage2`.

    Equal paths keep equal names.
    """
    parts = [path.parts for path in paths]
    for n in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(path) for path in paths]

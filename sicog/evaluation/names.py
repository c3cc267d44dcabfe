"""What tables call checkpoints: the folder's name, or as much of the path as tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def tails(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as make all of them differ: `base/stage2` and `next/stage2`.

    Equal paths keep equal names.
    """
    parts = [path.parts for path in paths]
    for n in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(path) for path in paths]

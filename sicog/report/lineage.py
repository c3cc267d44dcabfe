"""Find the image folder and the slicing of a folder's rows, through run.json of the steps before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sicog.stages.provenance import RUN
from sicog.stages.storage import read_json

PROCESSOR = "processor_config.json"  # key of a checkpoint
_DEEPEST = 12  # maximum number of steps to go back


def image_folder(folder: Path) -> Path | None:
    """Return the image folder of the nearest step with one, or None."""
    for config, at in _steps(folder):
        data = config.get("data")  # for a training; other steps have a folder
        given = [p for place in (config, data) if isinstance(place, dict) for p in _paths(place.get("image_folder"))]
        if found := next(_existing_paths(given, at), None):
            return found
    return None


def slicing(folder: Path) -> dict[str, int] | None:
    """Return scale, patch_size and max_slices of the checkpoint that sampled the rows, or None."""
    for config, at in _steps(folder):
        for checkpoint in _existing_paths(_paths(config.get("checkpoint")), at):
            if (checkpoint / PROCESSOR).is_file():
                known = read_json(checkpoint / PROCESSOR).get("image_processor", {})
                return {key: known[key] for key in ("scale", "patch_size", "max_slices") if key in known}
    return None


def scored_folder(selected: Path) -> Path | None:
    """Return the scored folder that was the input of a selection, if it exists."""
    for given in _paths(read_json(selected / RUN).get("input_paths", {}).get("scored")):
        beside = selected.parent / Path(given).name  # check this first, for a copied run
        if found := beside if beside.is_dir() else next(_existing_paths([given], selected), None):
            return found
    return None


def _steps(folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yield the configs of a folder's step and of the steps before it, nearest first, each with its folder."""
    seen: set[Path] = set()
    waiting = [folder]
    while waiting and len(seen) < _DEEPEST:
        at = waiting.pop(0)
        if at in seen or not (at / RUN).is_file():
            continue
        seen.add(at)
        run = read_json(at / RUN)
        yield run.get("config", {}), at
        waiting += [
            found for given in run.get("input_paths", {}).values() for found in _existing_paths(_paths(given), at)
        ]


def _paths(value: Any) -> list[str]:
    """Return the paths under a key of another step's run.json: one, several (a pooling step), or none."""
    values = value if isinstance(value, list) else [value]
    return [path for path in values if isinstance(path, str) and path]


def _existing_paths(given: Iterable[str], at: Path) -> Iterator[Path]:
    """Yield the recorded paths that exist, from the current folder or next to the step's folder of a moved run."""
    for path in given:
        places = (Path(path), at.parent / Path(path).name)
        yield from [place for place in places if place.exists()][:1]

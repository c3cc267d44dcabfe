"""What the steps before a folder knew: where its images lie and how they were cut, found through their run.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sicog.stages.provenance import RUN
from sicog.stages.storage import read_json

PROCESSOR = "processor_config.json"  # of a checkpoint
_DEEPEST = 12  # steps from a row back to where its image folder was given


def image_folder(folder: Path) -> Path | None:
    """The image folder of the nearest step that was given one, or None."""
    for config, at in _steps(folder):
        data = config.get("data")  # of a training; of other steps a folder
        given = [p for place in (config, data) if isinstance(place, dict) for p in _paths(place.get("image_folder"))]
        if found := next(_located(given, at), None):
            return found
    return None


def slicing(folder: Path) -> dict[str, int] | None:
    """scale, patch_size and max_slices of the checkpoint that the rows were sampled from, or None."""
    for config, at in _steps(folder):
        for checkpoint in _located(_paths(config.get("checkpoint")), at):
            if (checkpoint / PROCESSOR).is_file():
                known = read_json(checkpoint / PROCESSOR).get("image_processor", {})
                return {key: known[key] for key in ("scale", "patch_size", "max_slices") if key in known}
    return None


def scored_of(selected: Path) -> Path | None:
    """The scored folder that a selected one was made from, if it is still there."""
    for given in _paths(read_json(selected / RUN).get("input_paths", {}).get("scored")):
        beside = selected.parent / Path(given).name  # first, for a run that was copied
        if found := beside if beside.is_dir() else next(_located([given], selected), None):
            return found
    return None


def _steps(folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """The configs of a folder's step and of those before it, the nearest first, each with its folder."""
    seen: set[Path] = set()
    waiting = [folder]
    while waiting and len(seen) < _DEEPEST:
        at = waiting.pop(0)
        if at in seen or not (at / RUN).is_file():
            continue
        seen.add(at)
        run = read_json(at / RUN)
        yield run.get("config", {}), at
        waiting += [found for given in run.get("input_paths", {}).values() for found in _located(_paths(given), at)]


def _paths(value: Any) -> list[str]:
    """The paths that another step's run.json holds under a key: one, several (a step that pools others), or none."""
    values = value if isinstance(value, list) else [value]
    return [path for path in values if isinstance(path, str) and path]


def _located(given: Iterable[str], at: Path) -> Iterator[Path]:
    """Those of the noted paths that exist: from here, or beside the step's folder where the run was moved."""
    for path in given:
        places = (Path(path), at.parent / Path(path).name)
        yield from [place for place in places if place.exists()][:1]

"""What the steps before a folder knew: where its images lie and how they were cut, found through their run.json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sicog.provenance import RUN
from sicog.storage import read_json

PROCESSOR = "processor_config.json"  # of a checkpoint
_DEEPEST = 12  # steps from a row back to where its image folder was given


def image_folder(folder: Path) -> Path | None:
    """The image folder of the nearest step that was given one, or None."""
    for config, at in _steps(folder):
        given = config.get("image_folder") or (config.get("data") or {}).get("image_folder")
        if given and (found := _located(given, at)):
            return found
    return None


def slicing(folder: Path) -> dict[str, int] | None:
    """scale, patch_size and max_slices of the checkpoint that the rows were sampled from, or None."""
    for config, at in _steps(folder):
        checkpoint = _located(config["checkpoint"], at) if config.get("checkpoint") else None
        if checkpoint and (checkpoint / PROCESSOR).is_file():
            known = read_json(checkpoint / PROCESSOR).get("image_processor", {})
            return {key: known[key] for key in ("scale", "patch_size", "max_slices") if key in known}
    return None


def scored_of(selected: Path) -> Path | None:
    """The scored folder that a selected one was made from, if it is still there."""
    given = read_json(selected / RUN).get("input_paths", {}).get("scored")
    if not given:
        return None
    beside = selected.parent / Path(given).name  # first, for a run that was copied
    return beside if beside.is_dir() else _located(given, selected)


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
        waiting += [found for given in run.get("input_paths", {}).values() if (found := _located(given, at))]


def _located(given: str, at: Path) -> Path | None:
    """A path that a step noted down: from here, or beside the step's folder where the run was moved."""
    places = (Path(given), at.parent / Path(given).name)
    return next((place for place in places if place.exists()), None)

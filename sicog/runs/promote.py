"""`promote`: decide whether a round's model replaces the previous one. The run stops if it does not.

Both are measured on the same items of a development split. The new model is refused only if it is significantly worse
in some measure, by the interval of the paired difference. It need not be better. The test split is never used.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from sicog.config import Config
from sicog.console import say
from sicog.stages.provenance import RUN, write_manifest, write_run_json
from sicog.stages.storage import read_json, write_json
from sicog.statistics.intervals import paired_difference_interval

PROMOTION = "promotion.json"


class Measure(Config):
    """A measure: a value of every item in a file of an evaluation."""

    label: str
    """Name of the measure in the output."""
    file: str
    """JSONL file in the evaluation's folder; each line is an object with `id`."""
    value: str
    """Key of the value, a number or a boolean."""
    group: str | None = None
    """Key of the group of dependent items, such as the image of several questions."""


MINI_MEASURES = (
    Measure(label="question accuracy", file="answers.jsonl", value="right", group="image"),
    Measure(label="caption F1", file="captions.jsonl", value="f1"),
)


class PromoteConfig(Config):
    """Two evaluations on the development split, and the criteria to compare them."""

    out_dir: Path
    name: str = "the round"
    """Name of the candidate in the output."""
    candidate: Path
    """Evaluation of the new model."""
    incumbent: Path
    """Evaluation of the previous model."""
    measures: tuple[Measure, ...] = Field(default=MINI_MEASURES, min_length=1)
    """The measures; by default those of the mini world's evaluation."""
    tolerance: float = Field(default=0.0, ge=0)
    """Allowed loss beyond the interval, in units of the measures."""


def promote(config: PromoteConfig) -> Path:
    """Write promotion.json; returns the output folder.

    Raises `ValueError` when the candidate is not promoted, or the two are not comparable.
    """
    folders = {"candidate": config.candidate, "incumbent": config.incumbent}
    for key, folder in folders.items():
        _refuse_test_split(key, folder)
    write_run_json(config.out_dir, step="promote", config=config, inputs=folders)
    found = [_compare_measure(config, measure) for measure in config.measures]
    worse = [f for f in found if f["high"] < -config.tolerance]
    value = {"name": config.name, "promoted": not worse, "measures": found}
    write_json(config.out_dir / PROMOTION, value)
    for f in found:
        say(f"{config.name}: {_format_measure(f)}")
    if worse:
        raise ValueError(
            f"{config.name} is not promoted: on the development split it is worse than the previous model in "
            f"{' and in '.join(_format_measure(f) for f in worse)}. The figures are in {config.out_dir / PROMOTION}. "
            "Keep the previous model, or allow the loss with tolerance"
        )
    write_manifest(config.out_dir, "promote", [PROMOTION])
    return config.out_dir


def _compare_measure(config: PromoteConfig, measure: Measure) -> dict[str, Any]:
    ours, theirs = (_items(folder / measure.file, measure) for folder in (config.candidate, config.incumbent))
    if odd := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(
            f"{measure.label}: candidate and incumbent have different items (only one has "
            f"{odd[0]!r}). Evaluate both on the same split"
        )
    was, now = [theirs[i][0] for i in ours], [ours[i][0] for i in ours]
    found = paired_difference_interval(was, now, [group for _, group in ours.values()])
    if not math.isfinite(found.high):  # without an interval every model would be promoted
        raise ValueError(
            f"{measure.label}: all {len(ours)} items are of one image, so there is no interval. Measure more images"
        )
    means = {"was": sum(was) / len(was), "is": sum(now) / len(now)}
    limits = {"difference": found.value, "low": found.low, "high": found.high}
    return {"label": measure.label, "items": len(ours), **means, **limits}


def _items(path: Path, measure: Measure) -> Mapping[str, tuple[float, Hashable]]:
    """Return value and group of every item by id. Raises `ValueError` with the file and the item without one."""
    if not path.is_file():
        raise ValueError(f"{measure.label}: {path} does not exist. Set file to a file of this evaluation")
    items: dict[str, tuple[float, Hashable]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        row = orjson.loads(line)
        keys = ("id", measure.value, *((measure.group,) if measure.group else ()))
        if missing := [key for key in keys if key not in row]:
            raise ValueError(
                f"{measure.label}: {path}:{number}: {missing[0]!r} is missing. Evaluate again, or correct the measure"
            )
        items[row["id"]] = (float(row[measure.value]), row[measure.group] if measure.group else row["id"])
    if not items:
        raise ValueError(f"{measure.label}: {path} is empty. Evaluate again")
    return items


def _refuse_test_split(key: str, folder: Path) -> None:
    split = read_json(folder / RUN)["config"].get("split") if (folder / RUN).is_file() else None
    if split == "test":
        raise ValueError(
            f"{key}: {folder} was measured on the test split, which must not be used here. Use the development split"
        )


def _format_measure(found: Mapping[str, Any]) -> str:
    limits = f" (95 % interval {found['low']:+.3f} to {found['high']:+.3f})" if found["low"] == found["low"] else ""
    return f"{found['label']} {found['was']:.3f} -> {found['is']:.3f}, {found['difference']:+.3f}{limits}"

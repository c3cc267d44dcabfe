"""`promote`: whether a round's model takes the place of the one before it. The run stops when it does not.

Both are measured on the same items of a development split. The new model is refused only if it is worse beyond the
interval of the paired difference in some measure; it need not be shown to be better. The test split decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from sicog.config import Config
from sicog.console import stderr_console
from sicog.stages.provenance import RUN, digest_file, write_run_json
from sicog.stages.storage import MANIFEST, read_json, write_json
from sicog.statistics.intervals import paired_difference_interval

PROMOTION = "promotion.json"


class Measure(Config):
    """A value of every item of a file of an evaluation."""

    label: str
    """Name of the measure in what is printed."""
    file: str
    """JSONL under the evaluation's folder, an object with `id` each."""
    value: str
    """Key of a number, or of true and false."""
    group: str | None = None
    """Key of what items share that are not independent, such as the image of several questions."""


MINI_MEASURES = (
    Measure(label="question accuracy", file="answers.jsonl", value="right", group="image"),
    Measure(label="caption F1", file="captions.jsonl", value="f1"),
)


class PromoteConfig(Config):
    """Two evaluations on the development split, and what decides between them."""

    out_dir: Path
    name: str = "the round"
    """Name of the candidate in what is printed."""
    candidate: Path
    """Evaluation of the new model."""
    incumbent: Path
    """Evaluation of the model before it."""
    measures: tuple[Measure, ...] = Field(default=MINI_MEASURES, min_length=1)
    """The measures; by default those of the mini world's evaluation."""
    tolerance: float = Field(default=0.0, ge=0)
    """A loss that is allowed beyond the interval, in units of the measures."""


def promote(config: PromoteConfig) -> Path:
    """Write promotion.json; returns the output folder.

    Raises `ValueError` when the candidate is not promoted, or the two cannot be compared.
    """
    folders = {"candidate": config.candidate, "incumbent": config.incumbent}
    for key, folder in folders.items():
        _refuse_test_split(key, folder)
    write_run_json(config.out_dir, step="promote", config=config, inputs=folders)
    found = [_compared(config, measure) for measure in config.measures]
    worse = [f for f in found if f["high"] < -config.tolerance]
    value = {"name": config.name, "promoted": not worse, "measures": found}
    write_json(config.out_dir / PROMOTION, value)
    for f in found:
        stderr_console().print(f"  {config.name}: {_said(f)}", highlight=False, soft_wrap=True)
    if worse:
        raise ValueError(
            f"{config.name} is not promoted: on the development split it is worse than the model before it in "
            f"{' and in '.join(_said(f) for f in worse)}. {config.out_dir / PROMOTION} holds the figures; the model "
            f"before it stays the best, or allow for the loss with tolerance"
        )
    files = {PROMOTION: digest_file(config.out_dir / PROMOTION)}
    write_json(config.out_dir / MANIFEST, {"step": "promote", "files": files})
    return config.out_dir


def _compared(config: PromoteConfig, measure: Measure) -> dict[str, Any]:
    ours, theirs = (_items(folder / measure.file, measure) for folder in (config.candidate, config.incumbent))
    if odd := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(
            f"{measure.label}: candidate and incumbent were not measured on the same items (only one of them has "
            f"{odd[0]!r}); evaluate both on the same split"
        )
    was, now = [theirs[i][0] for i in ours], [ours[i][0] for i in ours]
    found = paired_difference_interval(was, now, [group for _, group in ours.values()])
    if not math.isfinite(found.high):  # nothing would be below it: every model would be promoted
        raise ValueError(
            f"{measure.label}: all {len(ours)} items are of one image, which has no interval; measure more images"
        )
    means = {"was": sum(was) / len(was), "is": sum(now) / len(now)}
    limits = {"difference": found.value, "low": found.low, "high": found.high}
    return {"label": measure.label, "items": len(ours), **means, **limits}


def _items(path: Path, measure: Measure) -> Mapping[str, tuple[float, Hashable]]:
    """Value and group of every item by its id. Raises `ValueError` naming the file and the item that lacks one."""
    if not path.is_file():
        raise ValueError(f"{measure.label}: {path} does not exist; name the file that this evaluation writes")
    items: dict[str, tuple[float, Hashable]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        row = orjson.loads(line)
        keys = ("id", measure.value, *((measure.group,) if measure.group else ()))
        if missing := [key for key in keys if key not in row]:
            raise ValueError(f"{measure.label}: {path}:{number} has no {missing[0]!r}")
        items[row["id"]] = (float(row[measure.value]), row[measure.group] if measure.group else row["id"])
    if not items:
        raise ValueError(f"{measure.label}: {path} is empty")
    return items


def _refuse_test_split(key: str, folder: Path) -> None:
    split = read_json(folder / RUN)["config"].get("split") if (folder / RUN).is_file() else None
    if split == "test":
        raise ValueError(
            f"{key}: {folder} was measured on the test split, which decides nothing; evaluate on the development split"
        )


def _said(found: Mapping[str, Any]) -> str:
    limits = f" (95 % interval {found['low']:+.3f} to {found['high']:+.3f})" if found["low"] == found["low"] else ""
    return f"{found['label']} {found['was']:.3f} -> {found['is']:.3f}, {found['difference']:+.3f}{limits}"

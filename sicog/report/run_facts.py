"""Read facts of a run's steps: rows in, kept and dropped from manifests, losses from metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from sicog.stages.storage import MANIFEST, is_finished, read_json

METRICS, SPEED = "metrics.jsonl", "speed.jsonl"  # one line per update: step, loss, ... (training/callbacks.py)
CURVE_POINTS = 240  # enough for a small plot


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file. Raises `ValueError` with file and line of a missing or broken one."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Run the step that writes it again")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"{path}:{number} is not valid JSON: {error}") from error
            if not isinstance(value, dict):
                raise ValueError(f"{path}:{number} is not a JSON object")
            yield value


def funnel_row(run_dir: Path, name: str) -> dict[str, Any]:
    """Return one step of the funnel: rows in, kept, dropped and failed by reason, and records written."""
    path = run_dir / name / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("rows_in"), int):
        raise ValueError(f"funnel: {path} has no counts of rows. Give steps that read and write rows")
    return {
        "name": name,
        "rows_in": manifest["rows_in"],
        "kept": manifest.get("rows_kept", manifest["rows_out"]),
        "dropped": manifest.get("dropped", {}),
        "failed": manifest.get("failed", {}),
        "rows_out": manifest["rows_out"],
    }


def loss_curve(run_dir: Path, name: str) -> dict[str, Any]:
    """Return the loss of a training step, thinned to at most `CURVE_POINTS` means over equal ranges of updates.

    `first` and `last` are means over a twentieth of the updates at each end, at least one.
    """
    path = run_dir / name / METRICS
    points = [_point(line, path) for line in read_lines(path)]
    if not points:
        raise ValueError(f"training: {path} has no updates. Give the folder of a training")
    finished = is_finished(run_dir / name)  # a training reported alone may be unfinished
    manifest = read_json(run_dir / name / MANIFEST) if finished else {}
    stretch = -(-len(points) // CURVE_POINTS)
    parts = [points[i : i + stretch] for i in range(0, len(points), stretch)]
    end = max(1, len(points) // 20)
    return {
        "name": name,
        "stage": manifest.get("stage", ""),
        "updates": points[-1][0],
        "samples": manifest.get("samples"),
        "first": _mean_loss(points[:end]),
        "last": _mean_loss(points[-end:]),
        "curve": [[part[-1][0], _mean_loss(part)] for part in parts],
    }


def speed(run_dir: Path, name: str) -> dict[str, float | None]:
    """Return medians over updates: seconds, samples/s, tokens/s, useful tokens, MFU; and the peak memory."""
    lines = list(read_lines(run_dir / name / SPEED))
    found: dict[str, float | None] = {}
    for key in ("seconds", "samples_per_second", "tokens_per_second", "useful_tokens", "mfu"):
        values = [line[key] for line in lines if line[key] is not None]
        found[key] = median(values) if values else None
    return {**found, "memory_gib": max((line["memory_gib"] for line in lines), default=None)}


def _point(line: dict[str, Any], path: Path) -> tuple[int, float]:
    if not isinstance(line.get("step"), int) or not isinstance(line.get("loss"), (int, float)):
        raise ValueError(f"training: {path} has a line without step and loss. Give the folder of a training")
    return line["step"], float(line["loss"])


def _mean_loss(points: list[tuple[int, float]]) -> float:
    return round(sum(loss for _, loss in points) / len(points), 6)

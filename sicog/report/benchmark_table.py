"""Read the table of `sicog results`: benchmarks of several checkpoints, with intervals and paired differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sicog.stages.storage import read_json


def is_table(path: Path) -> bool:
    """Return whether a results.json was written by `sicog results`; the report's own file has the same name."""
    if not path.is_file():
        return False
    found = read_json(path)
    return isinstance(found, dict) and {"baseline", "benchmarks"} <= found.keys() and "title" not in found


def read(path: Path) -> dict[str, Any]:
    """Return models (baseline first), one line per benchmark, and notes. Raises `ValueError` for another file."""
    if not is_table(path):
        raise ValueError(
            f"benchmarks: {path} was not written by `sicog results`. Give the output folder of `sicog results`"
        )
    table = read_json(path)
    names = [name for row in table["benchmarks"] for name in row["models"]]
    models = list(dict.fromkeys([table["baseline"], *names]))
    lines = []
    for row in table["benchmarks"]:
        values = {name: _interval(row["models"].get(name)) for name in models}
        differences = {name: _interval(row["differences"].get(name)) for name in models[1:]}
        n = max((model["n"] for model in row["models"].values()), default=0)
        lines.append({"name": row["name"], "unit": row["unit"], "n": n, "values": values, "differences": differences})
    return {"baseline": table["baseline"], "models": models, "rows": lines, "notes": table.get("notes", [])}


def _interval(found: dict[str, Any] | None) -> dict[str, float | None]:
    return {key: (found or {}).get(key) for key in ("value", "low", "high")}

"""Time and cost of each step. They change from run to run, so they are in a file next to the page."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sicog.report import run_facts as runs
from sicog.report.safe import script_json
from sicog.stages.provenance import RUN
from sicog.stages.storage import MANIFEST, read_json, write_bytes

STATES = ".steps"  # where `sicog run` writes the state of each step
PLAN = "recipe.json"  # where `sicog run` lists its steps
TIMES = "times.js"
_SETTINGS = ("chain", "teacher/rows", "")  # possible places of a step's run.json in its folder
_ANSWERS = ("teacher/answers", ".answers")  # where a step stores paid answers


def write(page_dir: Path, run_dir: Path, names: Sequence[str]) -> None:
    """Write times.js if it has changed: one entry per finished step, in order.

    names: the steps; empty means all of the recipe.
    """
    planned = run_dir / PLAN
    names = names or ([step["name"] for step in read_json(planned)] if planned.is_file() else ())
    found = [entry for name in names if (entry := _step(run_dir, name))]
    data = b"sicogTimes(" + script_json(found) + b");\n"
    path = page_dir / TIMES
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)


def _step(run_dir: Path, name: str) -> dict[str, Any] | None:
    """Return one step's seconds, rows, speed and cost; None for an unfinished step without data."""
    state_file, folder = run_dir / STATES / f"{name}.json", run_dir / name
    state = read_json(state_file) if state_file.is_file() else {}
    done = state.get("state") == "done"
    speed = runs.speed(run_dir, name) if (folder / runs.SPEED).is_file() else {}
    paid = _paid_tokens(folder)
    settings = _settings(folder)
    seconds = state.get("seconds") if done else None
    if not state:
        seconds = _own_seconds(folder, settings)
    if not (done or speed or paid or seconds is not None):
        return None
    verb = state.get("verb") or settings.get("step", "")
    entry = {"name": name, "verb": verb, "seconds": seconds, "rows": _rows(folder)}
    entry |= {key: speed[key] for key in ("tokens_per_second", "mfu", "memory_gib") if speed.get(key) is not None}
    if price := settings.get("config", {}).get("price_per_hour"):
        entry["machine_cost"] = round(price * (seconds or 0) / 3600, 4)
    return entry | ({"teacher": paid} if paid else {})


def _own_seconds(folder: Path, settings: Mapping[str, Any]) -> float | None:
    """Return the seconds of a step without a recipe: sum over updates of a training, or recorded; else None."""
    if (folder / runs.SPEED).is_file():
        return round(sum(line.get("seconds") or 0.0 for line in runs.read_lines(folder / runs.SPEED)), 1)
    seconds = settings.get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _rows(folder: Path) -> int | None:
    for part in _SETTINGS[::-1]:
        if (path := folder / part / MANIFEST).is_file():
            rows = read_json(path).get("rows_in")
            return rows if isinstance(rows, int) else None
    return None


def _settings(folder: Path) -> dict[str, Any]:
    paths = [folder / part / RUN for part in _SETTINGS]
    return next((read_json(path) for path in paths if path.is_file()), {})


def _paid_tokens(folder: Path) -> dict[str, Any] | None:
    """Return the tokens of a teacher or a served model, and dollars if the config has prices."""
    for part in _ANSWERS:
        path = folder / part / "answers.sqlite"
        if not path.is_file():
            continue
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1)) as store:
                totals = "total(input_tokens), total(output_tokens)"
                asked, tokens_in, tokens_out = store.execute(f"select count(*), {totals} from answers").fetchone()
                lost = store.execute(f"select {totals} from lost").fetchone()
        except sqlite3.Error as error:  # a running step still writes it
            return {"unknown": str(error)}
        found: dict[str, Any] = {"answers": asked}
        found |= {"input_tokens": int(tokens_in + lost[0]), "output_tokens": int(tokens_out + lost[1])}
        if prices := _prices(_settings(folder).get("config", {})):
            usd = (found["input_tokens"] * prices["input"] + found["output_tokens"] * prices["output"]) / 1e6
            found["usd"] = round(usd, 4)
        return found
    return None


def _prices(config: Any) -> dict[str, float] | None:
    """Return dollars per million tokens, from the endpoint of a step or of its teacher."""
    for holder in (config, config.get("teacher")):
        endpoint = holder.get("endpoint") if isinstance(holder, dict) else None
        if isinstance(endpoint, dict) and isinstance(prices := endpoint.get("prices"), dict):
            return prices
    return None

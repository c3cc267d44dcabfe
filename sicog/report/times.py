"""How long each step took and what it cost. Another each time, so it lies beside the page, apart from the results."""

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

STATES = ".steps"  # where `sicog run` writes how far each step is
PLAN = "recipe.json"  # where it lists its steps
TIMES = "times.js"
_SETTINGS = ("chain", "teacher/rows", "")  # where a step's run.json may lie in its folder
_ANSWERS = ("teacher/answers", ".answers")  # where a step keeps the answers that it paid for


def write(page_dir: Path, run_dir: Path, names: Sequence[str]) -> None:
    """Write times.js, if it says something new: one entry for each step that has been done, in order.

    names: the steps; all of the recipe when empty.
    """
    planned = run_dir / PLAN
    names = names or ([step["name"] for step in read_json(planned)] if planned.is_file() else ())
    found = [entry for name in names if (entry := _step(run_dir, name))]
    data = b"sicogTimes(" + script_json(found) + b");\n"
    path = page_dir / TIMES
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)


def _step(run_dir: Path, name: str) -> dict[str, Any] | None:
    """One step's seconds, rows, speed and cost; None for one that is not done and left nothing to tell."""
    state_file, folder = run_dir / STATES / f"{name}.json", run_dir / name
    state = read_json(state_file) if state_file.is_file() else {}
    done = state.get("state") == "done"
    speed = runs.speed(run_dir, name) if (folder / runs.SPEED).is_file() else {}
    paid = _paid(folder)
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
    """Of a step that no recipe started: of a training its updates', of a data step what it noted; None without."""
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


def _paid(folder: Path) -> dict[str, Any] | None:
    """Tokens that a teacher or a served model was asked for, and dollars where the config holds its prices."""
    for part in _ANSWERS:
        path = folder / part / "answers.sqlite"
        if not path.is_file():
            continue
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1)) as store:
                totals = "total(input_tokens), total(output_tokens)"
                asked, tokens_in, tokens_out = store.execute(f"select count(*), {totals} from answers").fetchone()
                lost = store.execute(f"select {totals} from lost").fetchone()
        except sqlite3.Error as error:  # a step that still writes it
            return {"unknown": str(error)}
        found: dict[str, Any] = {"answers": asked}
        found |= {"input_tokens": int(tokens_in + lost[0]), "output_tokens": int(tokens_out + lost[1])}
        if prices := _prices(_settings(folder).get("config", {})):
            usd = (found["input_tokens"] * prices["input"] + found["output_tokens"] * prices["output"]) / 1e6
            found["usd"] = round(usd, 4)
        return found
    return None


def _prices(config: Any) -> dict[str, float] | None:
    """Dollars for a million tokens, as the endpoint of a step or of its teacher has them."""
    for holder in (config, config.get("teacher")):
        endpoint = holder.get("endpoint") if isinstance(holder, dict) else None
        if isinstance(endpoint, dict) and isinstance(prices := endpoint.get("prices"), dict):
            return prices
    return None

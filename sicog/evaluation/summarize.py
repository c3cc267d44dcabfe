"""`sicog results RUN...`: table of several checkpoints, with intervals, paired differences and the paper's numbers.

results.md, results.csv, results.xlsx: the same table;  results.json: with all figures unrounded
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sicog.evaluation.families import FAMILIES, Question
from sicog.evaluation.kit.result_files import Result, Run, find_runs
from sicog.evaluation.suite import load_suite
from sicog.stages.storage import atomic_write, write_bytes, write_json
from sicog.statistics.bootstrap import Difference, Estimate, difference, estimate
from sicog.statistics.intervals import with_limits

log = logging.getLogger(__name__)

_AGREES = 0.02  # in the unit: the kit's figure and the figure of its rows may differ by rounding
_MISSING = "-"


def results(folders: Sequence[Path], out_dir: Path, *, baseline: str | None = None, suite: str | None = None) -> str:
    """Write the table of all runs in these folders; returns it as Markdown.

    baseline: the model to compare with, by default the first. suite: needed for folders of the kit itself. Raises
    `ValueError` for folders without results, an unknown baseline, or models with different questions.
    """
    runs = find_runs(list(folders), load_suite(suite) if suite else None)
    names = [run.name for run in runs]
    if baseline is not None and baseline not in names:
        raise ValueError(f"no run has the name {baseline!r}. Use one of: {', '.join(names)}")
    base = next(run for run in runs if run.name == (baseline or names[0]))
    runs = [base, *(run for run in runs if run is not base)]
    benchmarks = list(dict.fromkeys(name for run in runs for name in run.results))
    rows = [_benchmark_row(name, base, runs) for name in benchmarks]
    header, lines = _table(rows, base, runs)
    notes = _notes(rows, runs, base)
    text = _markdown(header, lines, notes)
    write_bytes(out_dir / "results.md", text.encode())
    write_bytes(out_dir / "results.csv", _csv(header, lines))
    write_json(out_dir / "results.json", {"baseline": base.name, "benchmarks": rows, "notes": notes})
    _write_xlsx(out_dir / "results.xlsx", header, lines, notes)
    return text


def _benchmark_row(name: str, base: Run, runs: Sequence[Run]) -> dict[str, Any]:
    """Return one line of the table: each model's value and interval, each difference to the baseline."""
    found = {run.name: run.results[name] for run in runs if name in run.results}
    first = next(iter(found.values()))
    models = {}
    for model, result in found.items():
        own = _estimate(result)
        models[model] = {"value": result.value, "reason": result.reason, "n": len(result.questions), **result.made}
        models[model] |= {"low": own.low, "high": own.high, "of_rows": own.value}
    differences = {}
    if (reference := base.results.get(name)) and reference.questions:
        others = [(m, r) for m, r in found.items() if m != base.name and r.questions]
        differences = {
            model: _difference(name, base.name, reference, model, result)._asdict() for model, result in others
        }
    unit = FAMILIES[first.family].unit
    return {"name": name, "unit": unit, "paper": dict(first.paper), "models": models, "differences": differences}


def _estimate(result: Result) -> Estimate:
    if not result.questions:
        return Estimate(math.nan, math.nan, math.nan)
    return estimate(FAMILIES[result.family].figure(result.questions), _groups(result.questions))


def _difference(name: str, base: str, reference: Result, model: str, result: Result) -> Difference:
    ours, theirs = ({q.id for q in r.questions} for r in (result, reference))
    if odd := sorted(ours ^ theirs):
        raise ValueError(
            f"{name}: {base} and {model} have different questions (only one has {odd[0]!r}). Evaluate both on the same "
            f"data, without limit or with the same limit"
        )
    figure = FAMILIES[result.family].figure
    return difference(figure(reference.questions), figure(result.questions), _groups(reference.questions))


def _groups(questions: Sequence[Question]) -> list[str]:
    return [q.group or q.id for q in questions]


def _table(rows: Sequence[dict[str, Any]], base: Run, runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells."""
    printed = list(dict.fromkeys(key for row in rows for key in row["paper"]))
    others = [run.name for run in runs if run is not base]
    header = ["benchmark", "unit", "n", *(run.name for run in runs)]
    header += [f"{other} - {base.name} (p)" for other in others] + [f"paper: {key}" for key in printed]
    lines = []
    for row in rows:
        n = max(model["n"] for model in row["models"].values())
        cells = [row["name"], row["unit"], str(n or _MISSING)]
        cells += [_format_value(row["models"].get(run.name)) for run in runs]
        cells += [_format_difference(row["differences"].get(other)) for other in others]
        lines.append(cells + [f"{row['paper'][key]:.1f}" if key in row["paper"] else _MISSING for key in printed])
    return header, lines


def _format_value(model: dict[str, Any] | None) -> str:
    if model is None or model["value"] is None:
        return _MISSING
    return with_limits(model["value"], model["low"], model["high"], ".1f")


def _format_difference(gap: dict[str, float] | None) -> str:
    if gap is None:
        return _MISSING
    p = "" if math.isnan(gap["low"]) else f" ({gap['p']:.3f})"
    return with_limits(gap["value"], gap["low"], gap["high"], "+.1f") + p


def _notes(rows: Sequence[dict[str, Any]], runs: Sequence[Run], base: Run) -> list[str]:
    """Return the notes below the table: how to read it, missing scores, and different settings."""
    notes = [
        "Brackets: 95 % intervals by bootstrap over the questions (questions that share an image or a group as one).",
    ]
    if len(runs) > 1:
        notes.append(f"Differences are paired with {base.name}; p: of exchanging the two models' answers at random.")
    for row in rows:
        known = row["models"]
        for name, model in known.items():
            if model["value"] is None:
                notes.append(f"{row['name']}, {name}: no score ({model['reason']}).")
            elif model["n"] and abs(model["of_rows"] - model["value"]) > _AGREES:
                notes.append(
                    f"{row['name']}, {name}: the kit says {model['value']:.2f}, its rows give {model['of_rows']:.2f}: "
                    f"the interval is that of the rows."
                )
        for key in ("judge", "limit", "kit", "style", "temperature"):
            if len(values := {str(model.get(key)) for model in known.values()}) > 1:
                notes.append(f"{row['name']}: the models differ in {key} ({', '.join(sorted(values))}).")
        if limits := {model["limit"] for model in known.values() if model.get("limit")}:
            notes.append(f"{row['name']}: only the first {max(limits)} rows were asked.")
    return notes


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    table = [header, ["---"] * len(header), *lines]
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table]
    return "\n".join([*rows, "", *(f"- {note}" for note in notes)]) + "\n"


def _csv(header: Sequence[str], lines: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    return text.getvalue().encode()


def _write_xlsx(path: Path, header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    try:
        from openpyxl import Workbook
        from openpyxl.styles import Font
    except ImportError:
        log.warning("%s is skipped because openpyxl is not installed. Run pip install 'sicog[eval]'", path)
        return

    book = Workbook()
    sheet = book.worksheets[0]
    for line in [header, *lines, [], *([note] for note in notes)]:
        sheet.append([str(cell) for cell in line])
    for cell in sheet[1]:
        cell.font = Font(bold=True)
    for row in sheet.iter_rows():
        for cell in row:
            cell.data_type = "s"  # write a name that begins with = as text, not as a formula
    with atomic_write(path) as file:
        book.save(file)

"""Render the page from a template with plots, style and scripts. All texts of the data are escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sicog.report.evaluations import outcome
from sicog.report.safe import script_json
from sicog.statistics import plots
from sicog.statistics.plots import Mark
from sicog.version import __version__

WEB = Path(__file__).parent / "web"
# One script, in this order: each file uses those before it.
_SCRIPTS = ("dom", "slices", "words", "data", "filters", "row", "list", "browse", "threshold", "times", "page")
_HEADS = {"questions": "Questions", "chains": "Questions, by chains of thought", "captions": "Captions"}
_VALUES = {"score": "score", "vote": "vote"}


def render(results: Mapping[str, Any], browsed: Mapping[str, Any]) -> str:
    """Return the page. `results`: as in results.json (no nan); `browsed`: initial data of the page's script.

    The content security policy allows only this script, by its digest, and files next to the page. It allows nothing
    from the network, and nothing from texts of the data.
    """
    environment = Environment(
        loader=FileSystemLoader(WEB),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (figure, share, format_reasons, optional, percent, heading, format_count)
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {
        "loss_plot": plots.loss_plot,
        "sweep_plot": plots.sweep_plot,
        "length_plot": plots.length_plot,
        "difference_plot": difference_plot,
        "worth_plot": worth_plot,
        "outcome": outcome,
        "heads": _HEADS,
        "version": __version__,
    }
    script = script_text()
    data = {**browsed, "thresholds": _thresholds(results)}
    return environment.get_template("page.html").render(
        **results,
        style=Markup((WEB / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(script_json(data).decode()),
        thresholds=data["thresholds"],
        facts=_facts(results),
    )


def script_text() -> str:
    """Return all scripts of the page as one."""
    parts = [(WEB / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    return '"use strict";\n' + "\n".join(parts)


def _thresholds(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return by task the totals at every threshold, and the values to show with them."""
    found = {}
    for name, task in results["curation"].items():
        if task["cuts"]:
            told = {"rows": task["rows"], "value": _VALUES[task["by"]], "inUse": task["threshold"] is not None}
            found[name] = {"cuts": task["cuts"], "told": told}
    return found


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures at the top of the page."""
    facts = [(f"{results['rows']:,}", f"{plural(results['rows'], 'row')} to look at")] if results["rows"] else []
    for name, task in results["curation"].items():
        if task["kept"] is not None:
            facts.append((share(task["kept"], task["rows"]), f"of {task['rows']:,} {name} kept"))
    n = len(results["training"])
    if updates := sum(run["updates"] for run in results["training"]):
        facts.append((f"{updates:,}", f"{plural(updates, 'update')} in {format_count(n, 'training')}"))
    return facts


def plural(n: int, word: str) -> str:
    """Return the word in singular or plural for this number."""
    return word if n == 1 else f"{word}s"


def format_count(n: int, word: str) -> str:
    """Return `1 update`, `1,200 updates`."""
    return f"{n:,} {plural(n, word)}"


def heading(name: str) -> str:
    """Return a set's name as a heading: our own words with a capital letter, a folder's name unchanged."""
    return name.capitalize() if name in ("captions", "reasoning") else name


def difference_plot(evaluation: Mapping[str, Any], other: str) -> Markup:
    """Plot all differences of the next model to another model, with the line at 0."""
    marks = []
    for row in evaluation["rows"]:
        d = row["differences"][other]
        if d["value"] is not None:
            label = f"{row['kind']}, {row['label']}" if row["part"] else row["label"]
            label = label.replace(" questions", "").replace(" combinations", "")
            marks.append(Mark(label, d["value"], d["low"], d["high"], outcome(d)))
    return plots.interval_plot(marks, "difference, with 95 % intervals", zero=True) if marks else Markup("")


def worth_plot(worth: Mapping[str, Any]) -> Markup:
    """Plot the truth of a random, the selected and the truest candidate, and of kept and dropped rows."""
    lines = {"random": "random candidate", "selected": "selected candidate", "truest": "truest candidate"}
    lines |= {"dropped": "rows dropped", "kept": "rows kept"}
    css = {"selected": "strong", "kept": "strong"}
    marks = [
        Mark(label, worth[key]["value"], worth[key]["low"], worth[key]["high"], css.get(key, "plain"))
        for key, label in lines.items()
        if worth[key]["value"] is not None
    ]
    return plots.interval_plot(marks, "truth, with 95 % intervals", width=420)


def figure(
    interval: Mapping[str, float | None], signed: bool = False, percent: bool = False, digits: int = 3
) -> Markup:
    """Format a value with its interval in small type below it."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return Markup('<span class="none">–</span>')

    def number(x: float) -> str:
        text = f"{100 * x:.1f}" if percent else f"{x:+.{digits}f}" if signed else f"{x:.{digits}f}"
        return text.replace("-", "−")

    limits = "" if low is None or high is None else f"<small>{number(low)} to {number(high)}</small>"
    return Markup(f"<b>{number(value)}{' %' if percent else ''}</b>{limits}")


def optional(value: float | None, form: str) -> str:
    """Format a number, or a dash for None."""
    return "–" if value is None else format(value, form).replace("-", "−")


def percent(value: float | None) -> str:
    """Format a share of 1 in whole per cent, or a dash for None."""
    return "–" if value is None else f"{100 * value:.0f} %"


def share(part: float, whole: float) -> str:
    """Format a share in per cent, with one decimal for large totals; a dash if the total is 0."""
    return f"{100 * part / whole:.1f} %".replace(".0 ", " ") if whole else "–"


def format_reasons(counts: Mapping[str, int]) -> str:
    """Format reasons with their counts, the most frequent first."""
    return ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in sorted(counts.items(), key=lambda kv: -kv[1]))

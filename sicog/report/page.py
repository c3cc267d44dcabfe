"""Numbers to HTML: the page's template with its plots. Everything that a model or a user wrote is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sicog import __version__
from sicog.report import plots
from sicog.report.evaluations import outcome
from sicog.report.plots import Mark

TEMPLATES = Path(__file__).parent
_HEADS = {"questions": "Questions", "captions": "Captions"}


def render(results: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> str:
    """The whole page. `results` as results.json holds it (no nan); `cards` with their pictures."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "share": share, "named": named}
    environment.globals |= {
        "loss_plot": plots.loss_plot,
        "histogram_plot": plots.histogram_plot,
        "sweep_plot": plots.sweep_plot,
        "difference_plot": difference_plot,
        "worth_plot": worth_plot,
        "outcome": outcome,
        "heads": _HEADS,
        "version": __version__,
    }
    return environment.get_template("page.html").render(**results, cards=cards)


def difference_plot(evaluation: Mapping[str, Any], other: str) -> Markup:
    """All differences of the next model to one other, with the line at 0."""
    marks = []
    for row in evaluation["rows"]:
        d = row["differences"][other]
        if d["value"] is not None:
            label = f"{row['kind']}, {row['label']}" if row["part"] else row["label"]
            label = label.replace(" questions", "").replace(" combinations", "")
            marks.append(Mark(label, d["value"], d["low"], d["high"], outcome(d)))
    return plots.interval_plot(marks, "difference, with 95 % intervals", zero=True) if marks else Markup("")


def worth_plot(worth: Mapping[str, Any]) -> Markup:
    """How true a random, the selected and the truest candidate are, and kept and dropped rows."""
    lines = {"random": "random candidate", "selected": "selected candidate", "truest": "truest candidate"}
    lines |= {"dropped": "rows dropped", "kept": "rows kept"}
    css = {"selected": "strong", "kept": "strong"}
    marks = [
        Mark(label, worth[key]["value"], worth[key]["low"], worth[key]["high"], css.get(key, "plain"))
        for key, label in lines.items()
        if worth[key]["value"] is not None
    ]
    return plots.interval_plot(marks, "truth, with 95 % intervals", width=420)


def figure(interval: Mapping[str, float | None], signed: bool = False) -> Markup:
    """A value with its interval in small type beneath it."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return Markup('<span class="none">–</span>')
    limits = "" if low is None or high is None else f"<small>{_number(low, signed)} to {_number(high, signed)}</small>"
    return Markup(f"<b>{_number(value, signed)}</b>{limits}")


def _number(value: float, signed: bool) -> str:
    return f"{value:+.3f}".replace("-", "−") if signed else f"{value:.3f}".replace("-", "−")


def share(part: float, whole: float) -> str:
    """A share in per cent; of nothing, a dash."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def named(counts: Mapping[str, int]) -> str:
    """Reasons with their counts, the most frequent first."""
    return ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in sorted(counts.items(), key=lambda kv: -kv[1]))

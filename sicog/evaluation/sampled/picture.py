"""Plot of sampled evaluation, a self-contained SVG: one panel per selection method, one for the probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sicog.statistics.panels import COLOURS, CurvePoint, axes, curve, dot, line, picture, text
from sicog.statistics.plots import Frame, padded_range

_WIDE, _HIGH, _LEGEND = 300, 240, 22
_TITLES = {"vote": "majority vote", "mbr": "minimum Bayes risk", "oracle": "any is right (pass@K)", "greedy": "greedy"}
Point = Mapping[str, Any]


def draw(points: Sequence[Point], probe: Sequence[Mapping[str, Any]], *, title: str = "") -> str:
    """Return the SVG. Solid lines: chains of thought; dashed lines: direct answers; thin lines: 95 % intervals.

    points: model, style, select, k, value, low, high in percent. probe: for each model its `gap` by k.
    """
    models = list(dict.fromkeys(p["model"] for p in points))
    colours = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(models)}
    curves = [p for p in points if p["select"] != "greedy"]
    greedy = [p for p in points if p["select"] == "greedy"]
    selects = list(dict.fromkeys(p["select"] for p in curves)) or ["greedy"]
    panels = [_panel(s, [p for p in curves if p["select"] == s], greedy, colours, _range(points)) for s in selects]
    if probe:
        panels.append(_probe_panel(probe, colours))
    top = 24 if title else 4
    height = top + _HIGH + _LEGEND
    heading = text(8, 15, title, "head") if title else ""
    legend = _legend(colours, sorted({p["style"] for p in points}), bool(greedy), height - 7)
    label = title or "accuracy against the number of samples"
    return picture(panels, _WIDE, height, label, top=top, before=heading, after=legend)


def _panel(
    select: str,
    points: Sequence[Point],
    greedy: Sequence[Point],
    colours: Mapping[str, str],
    y_range: tuple[float, float],
) -> str:
    ks = sorted({p["k"] for p in points}) or [1]
    frame = _frame(ks, y_range)
    parts = [_axes(frame, ks, _TITLES[select], "accuracy, %")]
    for p in greedy:
        y, style = frame.y(p["value"]), f"stroke:{colours[p['model']]};stroke-width:3{_dash(p['style'])}"
        parts.append(line(frame.left, frame.left + 14, y, y, style=style))
    for model, style in dict.fromkeys((p["model"], p["style"]) for p in points):
        own = [p for p in points if (p["model"], p["style"]) == (model, style)]
        parts.append(_curve(frame, own, colours[model], _dash(style), f"{model}, {style}"))
    return "".join(parts)


def _probe_panel(probe: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> str:
    gaps = [gap for one in probe for gap in one["gap"]]
    ks = sorted({gap["k"] for gap in gaps})
    frame = _frame(ks, _range([*gaps, {"value": 0.0, "low": 0.0, "high": 0.0}]))
    zero = frame.y(0.0)
    parts = [_axes(frame, ks, "thinking to recall", "pass@K with chains minus without, points")]
    parts.append(line(frame.left, frame.edge, zero, zero, "axis"))
    parts += [_curve(frame, one["gap"], colours[one["model"]], "", one["model"]) for one in probe]
    return "".join(parts)


def _frame(ks: Sequence[int], y_range: tuple[float, float]) -> Frame:
    low, high = math.log2(ks[0]), math.log2(ks[-1])
    span = (low - 0.15, high + 0.15)
    return Frame(span, y_range, width=_WIDE, height=_HIGH, left=40, right=10, top=34, bottom=34)


def _axes(frame: Frame, ks: Sequence[int], title: str, y_label: str) -> str:
    x_ticks = [(math.log2(k), str(k)) for k in ks]
    return axes(frame, title, x_ticks, "samples K", frame.height - 5, y_label=y_label)


def _curve(frame: Frame, points: Sequence[Point], colour: str, dash: str, label: str) -> str:
    shown = [
        CurvePoint(math.log2(p["k"]), p["value"], p["low"], p["high"], f"{label}, K = {p['k']}")
        for p in sorted(points, key=lambda p: p["k"])
    ]
    return curve(frame, shown, colour, radius=2.8, form=".1f", dash=dash)


def _legend(colours: Mapping[str, str], styles: Sequence[str], greedy: bool, y: int) -> str:
    parts, x = [], 8
    for model, colour in colours.items():
        parts += [dot(x + 4, y - 4, 4, colour), text(x + 12, y, model)]
        x += 30 + 7 * len(model)
    for style in styles:
        parts += [line(x, x + 22, y - 4, y - 4, style=f"stroke:#444{_dash(style)}"), text(x + 27, y, style)]
        x += 45 + 7 * len(style)
    if greedy:
        parts += [line(x, x + 14, y - 4, y - 4, style="stroke:#444;stroke-width:3"), text(x + 19, y, "greedy")]
    return "".join(parts)


def _dash(style: str) -> str:
    return "" if style == "cot" else ";stroke-dasharray:5 3"


def _range(points: Sequence[Point]) -> tuple[float, float]:
    return padded_range([p[key] for p in points for key in ("value", "low", "high") if p[key] == p[key]], least=1.0)

"""Plot of sampled evaluation, a self-contained SVG: one panel per selection method, one for the probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sicog.statistics.plots import Frame, number, ticks

_WIDE, _HIGH, _LEGEND = 300, 240, 22
COLOURS = ("#1f6feb", "#d9480f", "#2b8a3e", "#7048e8", "#0b7285", "#a61e4d")
_TITLES = {"vote": "majority vote", "mbr": "minimum Bayes risk", "oracle": "any is right (pass@K)", "greedy": "greedy"}
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #444 } .head { font-weight: 600; font-size: 12px; fill: #111 }
.end { text-anchor: end } .middle { text-anchor: middle } line { stroke: #e4e4e4 } .axis { stroke: #888 }
polyline { fill: none; stroke-width: 1.8 } .whisker { stroke-width: 1; opacity: 0.45 }
"""
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
    width, height = _WIDE * len(panels), top + _HIGH + _LEGEND
    body = "".join(f'<g transform="translate({_WIDE * i} {top})">{p}</g>' for i, p in enumerate(panels))
    heading = f'<text class="head" x="8" y="15">{escape(title)}</text>' if title else ""
    legend = _legend(colours, sorted({p["style"] for p in points}), bool(greedy), height - 7)
    words = escape(title or "accuracy against the number of samples")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{words}">'
        f'<style>{STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>{heading}{body}{legend}</svg>\n'
    )


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
        y, dash = frame.y(p["value"]), _dash(p["style"])
        place = f'x1="{frame.left}" x2="{frame.left + 14}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line {place} style="stroke:{colours[p["model"]]};stroke-width:3{dash}"/>')
    for model, style in dict.fromkeys((p["model"], p["style"]) for p in points):
        line = [p for p in points if (p["model"], p["style"]) == (model, style)]
        parts.append(_curve(frame, line, colours[model], _dash(style), f"{model}, {style}"))
    return "".join(parts)


def _probe_panel(probe: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> str:
    gaps = [gap for one in probe for gap in one["gap"]]
    ks = sorted({gap["k"] for gap in gaps})
    frame = _frame(ks, _range([*gaps, {"value": 0.0, "low": 0.0, "high": 0.0}]))
    zero = frame.y(0.0)
    parts = [_axes(frame, ks, "thinking to recall", "pass@K with chains minus without, points")]
    parts.append(
        f'<line class="axis" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{zero:.1f}" y2="{zero:.1f}"/>'
    )
    for one in probe:
        parts.append(_curve(frame, one["gap"], colours[one["model"]], "", one["model"]))
    return "".join(parts)


def _frame(ks: Sequence[int], y_range: tuple[float, float]) -> Frame:
    low, high = math.log2(ks[0]), math.log2(ks[-1])
    span = (low - 0.15, high + 0.15)
    return Frame(span, y_range, width=_WIDE, height=_HIGH, left=40, right=10, top=34, bottom=34)


def _axes(frame: Frame, ks: Sequence[int], title: str, y_label: str) -> str:
    floor = frame.height - frame.bottom
    right = frame.width - frame.right
    parts = [f'<text class="head" x="{frame.left}" y="14">{escape(title)}</text>']
    parts.append(f'<text x="4" y="28">{y_label}</text>')
    for tick in ticks(*frame.y_range):
        y = frame.y(tick)
        parts.append(f'<line x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{frame.left - 5}" y="{y + 3.5:.1f}">{number(tick)}</text>')
    for k in ks:
        parts.append(f'<text class="middle" x="{frame.x(math.log2(k)):.1f}" y="{floor + 14}">{k}</text>')
    parts.append(f'<line class="axis" x1="{frame.left}" x2="{right}" y1="{floor}" y2="{floor}"/>')
    parts.append(f'<text class="middle" x="{(frame.left + right) / 2}" y="{frame.height - 5}">samples K</text>')
    return "".join(parts)


def _curve(frame: Frame, points: Sequence[Point], colour: str, dash: str, label: str) -> str:
    points = sorted(points, key=lambda p: p["k"])
    places = [(frame.x(math.log2(p["k"])), p) for p in points]
    line = " ".join(f"{x:.1f},{frame.y(p['value']):.1f}" for x, p in places)
    parts = [f'<polyline points="{line}" style="stroke:{colour}{dash}"/>']
    for x, p in places:
        limits = ""
        if p["low"] == p["low"]:  # not nan
            limits = f" [{p['low']:.1f}, {p['high']:.1f}]"
            top, end = frame.y(p["high"]), frame.y(p["low"])
            ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{end:.1f}"'
            parts.append(f'<line class="whisker" {ends} style="stroke:{colour}"/>')
        tip = f"{label}, K = {p['k']}: {p['value']:.1f}{limits}"
        dot = f'cx="{x:.1f}" cy="{frame.y(p["value"]):.1f}" r="2.8" fill="{colour}"'
        parts.append(f"<circle {dot}><title>{escape(tip)}</title></circle>")
    return "".join(parts)


def _legend(colours: Mapping[str, str], styles: Sequence[str], greedy: bool, y: int) -> str:
    parts, x = [], 8
    for model, colour in colours.items():
        parts.append(f'<circle cx="{x + 4}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 12}" y="{y}">{escape(model)}</text>')
        x += 30 + 7 * len(model)
    for style in styles:
        parts.append(f'<line x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}" style="stroke:#444{_dash(style)}"/>')
        parts.append(f'<text x="{x + 27}" y="{y}">{escape(style)}</text>')
        x += 45 + 7 * len(style)
    if greedy:
        parts.append(f'<line x1="{x}" x2="{x + 14}" y1="{y - 4}" y2="{y - 4}" style="stroke:#444;stroke-width:3"/>')
        parts.append(f'<text x="{x + 19}" y="{y}">greedy</text>')
    return "".join(parts)


def _dash(style: str) -> str:
    return "" if style == "cot" else ";stroke-dasharray:5 3"


def _range(points: Sequence[Point]) -> tuple[float, float]:
    ends = [p[key] for p in points for key in ("value", "low", "high") if p[key] == p[key]]
    margin = (max(ends) - min(ends)) * 0.06 or 1.0
    return min(ends) - margin, max(ends) + margin

"""Plots of the lab as self-contained SVGs: results of the arms, and curves by number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sicog.evaluation.sampled.picture import COLOURS, STYLE
from sicog.statistics.plots import Frame, number, ticks

_TITLES = {"accuracy": "question accuracy", "caption_f1": "caption F1"}
_WIDE, _STEP = 330, 21
Results = Mapping[str, Any]


def draw_arms(results: Results) -> str:
    """Draw a panel per figure: one line per arm with the mean over seeds, its 95 % interval, and a dot per seed."""
    names: Sequence[str] = results["order"]
    left = 14 + 6.4 * max(map(len, names))
    height = _STEP * len(names) + 66
    panels = []
    for place, (figure, title) in enumerate(_TITLES.items()):
        shown = [results["arms"][name][figure] for name in names]
        frame = Frame(_range(shown), (0, len(names)), _WIDE, height, left=int(left) if place == 0 else 16, top=26)
        parts = [_x_axis(frame, title)]
        for k, (name, one) in enumerate(zip(names, shown, strict=True)):
            y = frame.top + _STEP * (k + 0.5)
            colour = COLOURS[0] if name == results["compare_with"] else "#555"
            if place == 0:
                parts.append(f'<text class="end" x="{frame.left - 8}" y="{y + 4:.1f}">{escape(name)}</text>')
            parts += _dots(frame, one, y, colour, f"{name}, {title}")
        panels.append("".join(parts))
    return _svg(panels, height, "what each arm came to, with 95 % intervals over seeds and images")


def draw_curves(results: Results, curves: Mapping[str, Sequence[str]]) -> str:
    """Draw a panel per figure: one line per curve, by the number of pre-training rows."""
    known = {k: [name for name in names if name in results["arms"]] for k, names in curves.items()}
    known = {k: names for k, names in known.items() if names}
    rows = [results["arms"][name]["rows"] for names in known.values() for name in names]
    height, panels = 250, []
    for figure, title in _TITLES.items():
        shown = [results["arms"][name][figure] for names in known.values() for name in names]
        frame = Frame((0, max(*rows, 1) * 1.03), _range(shown), _WIDE, height, left=46, top=26, bottom=56)
        parts = [_both_axes(frame, title)]
        for number_, (curve, names) in enumerate(known.items()):
            colour = COLOURS[number_ % len(COLOURS)]
            arms = sorted((results["arms"][name] for name in names), key=lambda arm: arm["rows"])
            points = [(arm["rows"], arm[figure]) for arm in arms]
            line = " ".join(f"{frame.x(x):.1f},{frame.y(one['mean']):.1f}" for x, one in points)
            parts.append(f'<polyline points="{line}" style="stroke:{colour}"/>')
            for x, one in points:
                parts += _dot_with_whisker(frame, x, one, colour, f"{curve}, {x:,} rows")
            at = 46 + 110 * number_
            parts.append(f'<circle cx="{at}" cy="{height - 9}" r="4" fill="{colour}"/>')
            parts.append(f'<text x="{at + 8}" y="{height - 5}">{escape(curve)}</text>')
        panels.append("".join(parts))
    return _svg(panels, height, "what a number of rows gives, with 95 % intervals over seeds and images")


def _svg(panels: Sequence[str], height: int, label: str) -> str:
    width = _WIDE * len(panels)
    body = "".join(f'<g transform="translate({_WIDE * k} 0)">{panel}</g>' for k, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f'<style>{STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>{body}</svg>\n'
    )


def _x_axis(frame: Frame, title: str) -> str:
    """Return grid and numbers of the x axis, and the title."""
    floor = frame.height - frame.bottom
    parts = [f'<text class="head" x="{frame.left}" y="14">{title}</text>']
    for tick in ticks(*frame.x_range):
        x = frame.x(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{floor}"/>')
        parts.append(f'<text class="middle" x="{x:.1f}" y="{floor + 14}">{number(tick)}</text>')
    return "".join(parts)


def _both_axes(frame: Frame, title: str) -> str:
    floor, right = frame.height - frame.bottom, frame.width - frame.right
    parts = [f'<text class="head" x="{frame.left}" y="14">{title}</text>']
    for tick in ticks(*frame.y_range):
        y = frame.y(tick)
        parts.append(f'<line x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{frame.left - 5}" y="{y + 3.5:.1f}">{number(tick)}</text>')
    for tick in ticks(*frame.x_range):
        parts.append(f'<text class="middle" x="{frame.x(tick):.1f}" y="{floor + 14}">{number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{frame.left}" x2="{right}" y1="{floor}" y2="{floor}"/>')
    parts.append(f'<text class="middle" x="{(frame.left + right) / 2}" y="{floor + 28}">rows</text>')
    return "".join(parts)


def _dots(frame: Frame, one: Mapping[str, Any], y: float, colour: str, label: str) -> list[str]:
    parts = []
    low, high = one["interval"]
    if low is not None:
        ends = f'x1="{frame.x(low):.1f}" x2="{frame.x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="whisker" {ends} style="stroke:{colour}"/>')
    for value in one["by_seed"]:
        parts.append(f'<circle cx="{frame.x(value):.1f}" cy="{y:.1f}" r="2" fill="{colour}" opacity="0.5"/>')
    tip = f"<title>{escape(_tooltip(label, one))}</title>"
    parts.append(f'<circle cx="{frame.x(one["mean"]):.1f}" cy="{y:.1f}" r="4" fill="{colour}">{tip}</circle>')
    return parts


def _dot_with_whisker(frame: Frame, x: float, one: Mapping[str, Any], colour: str, label: str) -> list[str]:
    at, parts = frame.x(x), []
    low, high = one["interval"]
    if low is not None:
        ends = f'x1="{at:.1f}" x2="{at:.1f}" y1="{frame.y(high):.1f}" y2="{frame.y(low):.1f}"'
        parts.append(f'<line class="whisker" {ends} style="stroke:{colour}"/>')
    tip = f"<title>{escape(_tooltip(label, one))}</title>"
    parts.append(f'<circle cx="{at:.1f}" cy="{frame.y(one["mean"]):.1f}" r="3" fill="{colour}">{tip}</circle>')
    return parts


def _tooltip(label: str, one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    return f"{label}: {one['mean']:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _range(shown: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    ends = [v for one in shown for v in (*one["by_seed"], *one["interval"]) if v is not None]
    margin = (max(ends) - min(ends)) * 0.06 or 0.01
    return min(ends) - margin, max(ends) + margin

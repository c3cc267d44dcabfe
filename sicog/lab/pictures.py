"""Plots of the lab as self-contained SVGs: results of the arms, and curves by number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sicog.statistics.intervals import with_limits
from sicog.statistics.panels import COLOURS, CurvePoint, axes, curve, dot, line, picture, text
from sicog.statistics.plots import Frame, number, padded_range, ticks

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
                parts.append(text(frame.left - 8, y + 4, name, "end"))
            parts.append(_dots(frame, one, y, colour, f"{name}, {title}"))
        panels.append("".join(parts))
    return picture(panels, _WIDE, height, "what each arm came to, with 95 % intervals over seeds and images")


def draw_curves(results: Results, curves: Mapping[str, Sequence[str]]) -> str:
    """Draw a panel per figure: one line per curve, by the number of pre-training rows."""
    known = {k: [results["arms"][name] for name in names if name in results["arms"]] for k, names in curves.items()}
    known = {k: sorted(arms, key=lambda arm: arm["rows"]) for k, arms in known.items() if arms}
    shown = [arm for arms in known.values() for arm in arms]
    most = max(*(arm["rows"] for arm in shown), 1) * 1.03
    height, panels = 250, []
    for figure, title in _TITLES.items():
        frame = Frame((0, most), _range([arm[figure] for arm in shown]), _WIDE, height, left=46, top=26, bottom=56)
        x_ticks = [(tick, number(tick)) for tick in ticks(*frame.x_range)]
        parts = [axes(frame, title, x_ticks, "rows", frame.floor + 28)]
        for k, (name, arms) in enumerate(known.items()):
            colour, at = COLOURS[k % len(COLOURS)], 46 + 110 * k
            points = [_point(arm["rows"], arm[figure], f"{name}, {arm['rows']:,} rows") for arm in arms]
            parts.append(curve(frame, points, colour, radius=3, form=".3f"))
            parts += [dot(at, height - 9, 4, colour), text(at + 8, height - 5, name)]
        panels.append("".join(parts))
    return picture(panels, _WIDE, height, "what a number of rows gives, with 95 % intervals over seeds and images")


def _x_axis(frame: Frame, title: str) -> str:
    """Return grid and numbers of the x axis, and the title."""
    parts = [text(frame.left, 14, title, "head")]
    for tick in ticks(*frame.x_range):
        x = frame.x(tick)
        parts += [line(x, x, frame.top, frame.floor), text(x, frame.floor + 14, number(tick), "middle")]
    return "".join(parts)


def _dots(frame: Frame, one: Mapping[str, Any], y: float, colour: str, label: str) -> str:
    low, high = one["interval"]
    parts = [] if low is None else [line(frame.x(low), frame.x(high), y, y, "whisker", f"stroke:{colour}")]
    parts += [dot(frame.x(value), y, 2, colour, more=' opacity="0.5"') for value in one["by_seed"]]
    tip = f"{label}: {with_limits(one['mean'], low, high)}"
    return "".join([*parts, dot(frame.x(one["mean"]), y, 4, colour, tip)])


def _point(rows: int, one: Mapping[str, Any], label: str) -> CurvePoint:
    low, high = one["interval"]
    return CurvePoint(rows, one["mean"], low, high, label)


def _range(shown: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    return padded_range([v for one in shown for v in (*one["by_seed"], *one["interval"]) if v is not None])

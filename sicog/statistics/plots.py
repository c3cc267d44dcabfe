"""Plots as inline SVG: plain functions from numbers to markup. Colours come from the page's style, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """A plot's size and the ranges that it shows: data to pixels, and the axes around them."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int = 340
    height: int = 170
    left: int = 44
    right: int = 12
    top: int = 10
    bottom: int = 34

    @property
    def floor(self) -> int:
        """The pixel row of the x axis."""
        return self.height - self.bottom

    @property
    def edge(self) -> int:
        """The pixel column at which the plot ends on the right."""
        return self.width - self.right

    def x(self, value: float) -> float:
        """The pixel column of a value."""
        return self.left + _share(value, self.x_range) * (self.edge - self.left)

    def y(self, value: float) -> float:
        """The pixel row of a value; larger values stand higher."""
        return self.floor - _share(value, self.y_range) * (self.floor - self.top)

    def axes(self, x_label: str, y_label: str = "") -> str:
        """Grid lines with their numbers, and the words beside them."""
        parts = []
        for tick in ticks(*self.y_range):
            y = self.y(tick)
            parts.append(_line(self.left, y, self.edge, y, "grid"))
            parts.append(_text(self.left - 6, y + 3.5, number(tick), "tick end"))
        parts += [_text(self.x(tick), self.floor + 14, number(tick), "tick middle") for tick in ticks(*self.x_range)]
        parts += [_line(self.left, self.floor, self.edge, self.floor, "axis"), self.x_label(x_label)]
        return "".join([*parts, _text(4, self.top, y_label, "tick") if y_label else ""])

    def x_label(self, words: str) -> str:
        """The words below the x axis."""
        return _text((self.left + self.edge) / 2, self.height - 4, words, "tick middle")

    def svg(self, body: str, label: str) -> Markup:
        """The whole picture; `label` tells those who cannot see it what it is."""
        size = f'viewBox="0 0 {self.width} {self.height}" style="max-width:{self.width * 1.15:.0f}px"'
        return Markup(f'<svg class="plot" {size} role="img" aria-label="{escape(label)}">{body}</svg>')


def _share(value: float, between: tuple[float, float]) -> float:
    low, high = between
    return (value - low) / (high - low) if high > low else 0.5


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, css: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _path(frame: Frame, points: Sequence[Point], css: str) -> str:
    line = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return f'<polyline class="{css}" points="{line}"/>'


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """About so many round numbers within the range."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def padded_range(values: Sequence[float], share: float = 0.06, least: float = 0.01) -> tuple[float, float]:
    """The range of the values with a margin on both sides: this share of it, or `least` if all are equal."""
    margin = (max(values) - min(values)) * share or least
    return min(values) - margin, max(values) + margin


def number(value: float) -> str:
    """A tick's label: thousands with a comma, no needless zeros."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.4g}"


def loss_plot(name: str, curve: Sequence[Point]) -> Markup:
    """The loss by update: each point faint, and the mean of its neighbours, a fifteenth of all."""
    losses = [y for _, y in curve]
    frame = Frame((0, curve[-1][0]), (0, max(losses) * 1.05 or 1.0), height=150)
    half = len(curve) // 30
    around = [losses[max(0, i - half) : i + half + 1] for i in range(len(curve))]
    smooth = [(x, sum(near) / len(near)) for (x, _), near in zip(curve, around, strict=True)]
    body = frame.axes("update") + _path(frame, curve, "faint") + _path(frame, smooth, "main")
    if len(curve) == 1:
        body += f'<circle class="dot" cx="{frame.x(curve[0][0]):.1f}" cy="{frame.y(losses[0]):.1f}" r="3"/>'
    return frame.svg(body, f"loss of {name} by update")


def length_plot(lengths: dict[str, Any], of: str) -> Markup:
    """Texts by their number of words: one small histogram for each style, of kept rows upon dropped ones.

    of: what the texts are, such as `chosen texts`.
    """
    step, styles = lengths["step"], lengths["styles"]
    bars = max(len(counts) for lines in styles.values() for counts in lines.values())
    left, tall = 12 + round(6.2 * max(len(style) for style in styles)), 52
    frame = Frame((0, bars * step), (0, 1), width=460, height=(tall + 12) * len(styles) + 34, left=left)
    parts = []
    for place, (style, lines) in enumerate(styles.items()):
        floor = (tall + 12) * (place + 1)
        dropped_ones = lines.get("dropped", [0] * bars)
        others = lines["open" if "open" in lines else "kept"]
        highest = max(k + d for k, d in zip(others, dropped_ones, strict=True))
        for i, (kept, dropped) in enumerate(zip(others, dropped_ones, strict=True)):
            x, wide = frame.x(i * step), frame.x(step) - frame.x(0) - 1
            words = f"{i * step} words" if step == 1 else f"{i * step} to {(i + 1) * step - 1} words"
            tip = f"{words}: {kept + dropped:,}" + (f", {dropped:,} dropped" if dropped else "")
            below = 0.0
            for rows, css in ((kept, "kept"), (dropped, "dropped")):
                if rows:
                    high = rows / highest * tall
                    below += high
                    parts.append(_bar(x, floor - below, wide, high, css, tip))
        parts += [_text(left - 8, floor - 3, style, "label end")]
        parts.append(_line(left, floor, frame.edge, floor, "axis"))
    floor = (tall + 12) * len(styles)
    parts += [_text(frame.x(tick), floor + 14, number(tick), "tick middle") for tick in ticks(0, bars * step)]
    parts.append(_text((left + frame.edge) / 2, floor + 28, f"words of the {of}", "tick middle"))
    return frame.svg("".join(parts), f"{of} by their number of words")


def _bar(x: float, y: float, width: float, height: float, css: str, tip: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}"'
    return f'<rect class="{css}" {place}><title>{escape(tip)}</title></rect>'


def sweep_plot(sweep: dict[str, Any]) -> Markup:
    """Truth of kept and of dropped rows by the share that a threshold keeps; a line at the one that was chosen."""
    kept = [(cut["share_kept"], cut["truth_kept"]) for cut in sweep["curve"]]
    dropped = [(c["share_kept"], c["truth_dropped"]) for c in sweep["curve"] if c["truth_dropped"] is not None]
    y_range = padded_range([y for _, y in kept + dropped], 0.08, 0.05)
    frame = Frame((0, 1), y_range, width=460, height=200, top=18)
    parts = []
    if bounds := sweep.get("keep_share"):
        left, right = (frame.x(share) for share in bounds)
        place = f'x="{left:.1f}" y="{frame.top}" width="{right - left:.1f}" height="{frame.floor - frame.top}"'
        parts.append(f'<rect class="band" {place}><title>shares that the threshold may keep</title></rect>')
    x = frame.x(sweep["share_kept"])
    parts += [
        frame.axes("share of rows kept", "truth"),
        _path(frame, dropped, "faint strong"),
        _path(frame, kept, "main"),
        _line(x, frame.top - 4, x, frame.floor, "cut"),
    ]
    return frame.svg("".join(parts), "truth of kept and dropped rows by share kept")


@dataclass(frozen=True)
class Mark:
    """One line of an interval plot: a value, its 95 % interval where known, and the class of its colour."""

    label: str
    value: float
    low: float | None
    high: float | None
    css: str = "plain"


def interval_plot(marks: Sequence[Mark], x_label: str, *, zero: bool = False, width: int = 460) -> Markup:
    """A dot with its interval on each line; with `zero`, the line at 0 that an interval is to exclude."""
    ends = [v for m in marks for v in (m.value, m.low, m.high) if v is not None] + ([0.0] if zero else [])
    step, left = 21, 12 + max(6.2 * len(m.label) for m in marks)
    frame = Frame(padded_range(ends), (0, len(marks)), width, step * len(marks) + 44, left=int(left))
    parts = []
    for tick in ticks(*frame.x_range):
        x, css = frame.x(tick), "axis" if zero and tick == 0 else "grid"
        parts.append(_line(x, frame.top, x, frame.floor, css))
        parts.append(_text(x, frame.floor + 14, number(tick), "tick middle"))
    for i, mark in enumerate(marks):
        y = frame.top + step * (i + 0.5)
        parts.append(_text(frame.left - 8, y + 4, mark.label, "label end"))
        if mark.low is not None and mark.high is not None:
            parts.append(_line(frame.x(mark.low), y, frame.x(mark.high), y, f"whisker {mark.css}"))
        parts.append(f'<circle class="dot {mark.css}" cx="{frame.x(mark.value):.1f}" cy="{y:.1f}" r="3.6"/>')
    return frame.svg("".join([*parts, frame.x_label(x_label)]), x_label)

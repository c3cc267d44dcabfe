"""Panels beside each other as one self-contained SVG: axes, and curves with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from sicog.statistics.intervals import with_limits
from sicog.statistics.plots import Frame, number, ticks

COLOURS = ("#1f6feb", "#d9480f", "#2b8a3e", "#7048e8", "#0b7285", "#a61e4d")
_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #444 } .head { font-weight: 600; font-size: 12px; fill: #111 }
.end { text-anchor: end } .middle { text-anchor: middle } line { stroke: #e4e4e4 } .axis { stroke: #888 }
polyline { fill: none; stroke-width: 1.8 } .whisker { stroke-width: 1; opacity: 0.45 }
"""


class CurvePoint(NamedTuple):
    """A point of a curve with its interval (None or nan: unknown); the label is shown at the mouse."""

    x: float
    value: float
    low: float | None
    high: float | None
    label: str


def picture(
    panels: Sequence[str], width: int, height: int, label: str, *, top: int = 0, before: str = "", after: str = ""
) -> str:
    """Return the SVG. width: of each panel. top: where panels begin. before, after: parts of the whole picture."""
    whole = width * len(panels)
    body = "".join(f'<g transform="translate({width * i} {top})">{panel}</g>' for i, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {height}" role="img" '
        f'aria-label="{escape(label)}"><style>{_STYLE}</style>'
        f'<rect width="{whole}" height="{height}" fill="#fff"/>{before}{body}{after}</svg>\n'
    )


def axes(
    frame: Frame, title: str, x_ticks: Iterable[tuple[float, str]], x_label: str, x_label_y: int, *, y_label: str = ""
) -> str:
    """Return the title, grid and numbers of both axes, and their words; those of the x axis at row `x_label_y`."""
    parts = [text(frame.left, 14, title, "head"), text(4, 28, y_label) if y_label else ""]
    for tick in ticks(*frame.y_range):
        y = frame.y(tick)
        parts += [line(frame.left, frame.edge, y, y), text(frame.left - 5, y + 3.5, number(tick), "end")]
    parts += [text(frame.x(x), frame.floor + 14, words, "middle") for x, words in x_ticks]
    parts.append(line(frame.left, frame.edge, frame.floor, frame.floor, "axis"))
    return "".join([*parts, text((frame.left + frame.edge) / 2, x_label_y, x_label, "middle")])


def curve(frame: Frame, points: Sequence[CurvePoint], colour: str, *, radius: float, form: str, dash: str = "") -> str:
    """Return a line through the points, each with its interval. form: of the values at the mouse."""
    places = [(frame.x(p.x), frame.y(p.value)) for p in points]
    parts = [f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" style="stroke:{colour}{dash}"/>']
    for (x, y), p in zip(places, points, strict=True):
        if p.low is not None and p.high is not None and not math.isnan(p.low):
            parts.append(line(x, x, frame.y(p.high), frame.y(p.low), "whisker", f"stroke:{colour}"))
        parts.append(dot(x, y, radius, colour, f"{p.label}: {with_limits(p.value, p.low, p.high, form)}"))
    return "".join(parts)


def line(x1: float, x2: float, y1: float, y2: float, css: str = "", style: str = "") -> str:
    """Return a line between two places in pixels."""
    css, style = f' class="{css}"' if css else "", f' style="{style}"' if style else ""
    return f'<line{css} x1="{_px(x1)}" x2="{_px(x2)}" y1="{_px(y1)}" y2="{_px(y2)}"{style}/>'


def text(x: float, y: float, words: str, css: str = "") -> str:
    """Return words at a place in pixels."""
    css = f' class="{css}"' if css else ""
    return f'<text{css} x="{_px(x)}" y="{_px(y)}">{escape(words)}</text>'


def dot(x: float, y: float, radius: float, colour: str, tip: str = "", more: str = "") -> str:
    """Return a filled circle. tip: shown at the mouse; more: further attributes."""
    begin = f'<circle cx="{_px(x)}" cy="{_px(y)}" r="{radius}" fill="{colour}"{more}'
    return f"{begin}><title>{escape(tip)}</title></circle>" if tip else f"{begin}/>"


def _px(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"

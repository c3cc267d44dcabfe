"""Format numbers for people: three digits, units instead of exponents."""

from __future__ import annotations

import math

_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_LEAST = 0.01


def small(value: float) -> str:
    """`0.35`, `12.5`, `1,234`; a positive number below a hundredth is `< 0.01`."""
    if 0 < value < _LEAST:
        return f"< {_LEAST}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def large(number: float) -> str:
    """A count with its unit: `950`, `1.2 k`, `3.4 G`."""
    for unit, size in _UNITS:
        if number >= size:
            return f"{small(number / size)} {unit}"
    return f"{number:.0f}"


def power_of_ten(number: float) -> str:
    """`1.25 x 10^18`, with an exponent that is a multiple of three; below 1,000 the number alone."""
    power = 3 * math.floor(math.log10(number) / 3) if number >= 1000 else 0
    return f"{small(number / 10**power)} x 10^{power}" if power else small(number)


def duration(seconds: float) -> str:
    """`less than a second`, `about 12 seconds`, `about 5 minutes`, `about 1.5 hours`."""
    if seconds < 1:
        return "less than a second"
    if seconds < 120:
        return f"about {seconds:.0f} second{'' if round(seconds) == 1 else 's'}"
    return f"about {seconds / 60:.0f} minutes" if seconds < 7200 else f"about {seconds / 3600:,.1f} hours"

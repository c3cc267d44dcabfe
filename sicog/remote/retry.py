"""Waiting time before the next attempt: the endpoint's `Retry-After`, else back-off with jitter."""

from __future__ import annotations

import random
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

FIRST_S, LONGEST_S = 1.0, 60.0


def back_off_s(attempt: int, rng: random.Random) -> float:
    """Return the seconds to wait after attempt 1, 2, ...: doubled each time, at most a minute, with jitter.

    The jitter removes up to one half, so that requests that failed together do not retry together.
    """
    return min(LONGEST_S, FIRST_S * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.0)


def retry_after_s(headers: Mapping[str, str], wall: float) -> float | None:
    """Return the seconds of a `Retry-After` header (a number or an HTTP date); None if missing or unreadable."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - wall)
    except (TypeError, ValueError):
        return None

"""How long to wait before the next attempt: what the endpoint asks for, else back-off with jitter."""

from __future__ import annotations

import random
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

FIRST_S, LONGEST_S = 1.0, 60.0


def back_off_s(attempt: int, rng: random.Random) -> float:
    """Seconds after attempt 1, 2, ...: doubled each time, at most a minute, less up to a half by chance.

    The chance keeps requests that failed together from coming back together.
    """
    return min(LONGEST_S, FIRST_S * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.0)


def retry_after_s(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds that a `Retry-After` header asks for, a number or an HTTP date; None without one that can be read."""
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

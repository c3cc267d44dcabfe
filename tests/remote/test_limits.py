"""limits.py and retry.py: windows and pauses, with a clock that passes only by sleeping."""

import asyncio
import random

import pytest

from sicog.remote.limits import Clock, RateLimit
from sicog.remote.retry import back_off_s, retry_after_s


def limit(requests=None, tokens=None):
    passed = {"now": 0.0}

    async def sleep(seconds):
        passed["now"] += seconds

    return RateLimit(requests, tokens, Clock(now=lambda: passed["now"], sleep=sleep)), passed


def times(rate, passed, tokens):
    async def run():
        return [(await rate.wait(n)).at for n in tokens]

    return asyncio.run(run())


def test_without_limits_nobody_waits():
    assert times(*limit(), [1e9] * 3) == [0, 0, 0]


def test_requests_of_a_minute():
    assert times(*limit(requests=2), [1] * 5) == [0, 0, 60, 60, 120]


def test_tokens_of_a_minute_and_one_that_is_larger_than_the_limit():
    assert times(*limit(tokens=100), [60, 40, 50, 500, 10]) == [0, 0, 60, 120, 180]


def test_a_pause_holds_everybody():  # Retry-After
    rate, passed = limit()
    rate.hold(30)
    assert times(rate, passed, [1, 1]) == [30, 30]


def test_a_run_that_stops_waits_for_nothing():
    rate, passed = limit(requests=1)
    rate.stopped = True
    assert times(rate, passed, [1] * 50) == [0] * 50


def test_back_off_doubles_up_to_a_minute_and_has_jitter():
    rng = random.Random(0)
    for attempt, whole in enumerate((1, 2, 4, 8, 16, 32, 60, 60), 1):
        drawn = [back_off_s(attempt, rng) for _ in range(50)]
        assert whole / 2 <= min(drawn) < max(drawn) <= whole and len(set(drawn)) == 50


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("0.5", 0.5), ("-3", 0), ("Wed, 21 Oct 2015 07:28:10 GMT", 10), ("soon", None), (None, None)],
)
def test_retry_after(value, seconds):
    wall = 1445412480  # Wed, 21 Oct 2015 07:28:00 GMT
    assert retry_after_s({} if value is None else {"retry-after": value}, wall) == seconds

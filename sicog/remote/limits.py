"""Rate limits for requests and tokens over a sliding window of 60 seconds, first come, first served."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

WINDOW_S = 60.0


@dataclass(frozen=True)
class Clock:
    """Clock of the client; tests use their own. now: monotonic seconds. wall: seconds since 1970."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass
class SentRequest:
    """A sent request. Its tokens are an estimate until the answer gives the real number."""

    at: float
    tokens: float


@dataclass
class RateLimit:
    """Requests of the last 60 seconds, and a pause that the endpoint asked for. stopped: end all waiting."""

    requests: int | None
    tokens: int | None
    clock: Clock = field(default_factory=Clock)
    stopped: bool = False
    _sent: deque[SentRequest] = field(default_factory=deque)
    _paused_until: float = 0.0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def wait(self, tokens: float) -> SentRequest:
        """Wait until a request of this many tokens may be sent, and count it as sent.

        A request larger than the limit is sent when the window is empty.
        """
        async with self._turn:
            while not self.stopped and (pause := self._pause(tokens)) > 0:
                await self.clock.sleep(min(pause, 1.0))  # sleep in short steps, so that a stopped run does not wait
            sent = SentRequest(self.clock.now(), tokens)
            if self.requests is not None or self.tokens is not None:  # without a limit the window need not be kept
                self._sent.append(sent)
            return sent

    def hold(self, seconds: float) -> None:
        """Stop sending for this many seconds, because the endpoint asked for it."""
        self._paused_until = max(self._paused_until, self.clock.now() + seconds)

    def _pause(self, tokens: float) -> float:
        now = self.clock.now()
        while self._sent and self._sent[0].at + WINDOW_S <= now:
            self._sent.popleft()
        free_at = self._paused_until
        if self.requests is not None and len(self._sent) >= self.requests:
            free_at = max(free_at, self._sent[len(self._sent) - self.requests].at + WINDOW_S)
        if self.tokens is not None:
            free_at = max(free_at, self._tokens_free_at(self.tokens - tokens))
        return free_at - now

    def _tokens_free_at(self, room: float) -> float:
        """Return the time when the window has at most `room` tokens; the oldest requests leave first."""
        left, free_at = sum(s.tokens for s in self._sent), 0.0
        for sent in self._sent:
            if left <= room:
                break
            left, free_at = left - sent.tokens, sent.at + WINDOW_S
        return free_at

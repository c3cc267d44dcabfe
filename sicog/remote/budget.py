"""Budget of tokens and money: spent and in-flight cost stay below the config's cap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sicog.remote.config import EndpointConfig


class BudgetReached(ValueError):  # noqa: N818 - the end of a run more than an error
    """The budget is reached. Stored answers are kept; a run with a higher budget resumes."""


class Purse:
    """Tokens spent, plus the possible cost of requests in flight; together they stay below the cap.

    Each request reserves its estimate. When answers have more tokens than estimated, later estimates are raised by that
    factor. So only requests in flight at that moment can exceed the cap.
    """

    def __init__(self, config: EndpointConfig, spent: tuple[int, int], factor: float = 1.0) -> None:
        self.config = config
        self.input_tokens, self.output_tokens = spent
        self._aside: list[tuple[float, float]] = []
        self._factor = factor
        self._changed = asyncio.Condition()

    @property
    def usd(self) -> float:
        """Return the dollars spent, by the config's prices."""
        return self.config.usd(self.input_tokens, self.output_tokens)

    def count_answer(self, input_tokens: int, output_tokens: int, estimated_input: int) -> None:
        """Count an answer."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self._factor = max(self._factor, input_tokens / max(1, estimated_input))

    @asynccontextmanager
    async def set_aside(self, input_tokens: int, output_tokens: int) -> AsyncIterator[None]:
        """Reserve the cost of one request while it is in flight. Raises `BudgetReached` when it does not fit."""
        mine = (input_tokens * self._factor, float(output_tokens))
        async with self._changed:
            while not self._fits(mine):
                if not self._aside:
                    raise BudgetReached(self._spent_text())
                await self._changed.wait()
            self._aside.append(mine)
        try:
            yield
        finally:
            async with self._changed:
                self._aside.remove(mine)
                self._changed.notify_all()

    def _fits(self, mine: tuple[float, float]) -> bool:
        budget = self.config.budget
        taken = [(float(self.input_tokens), float(self.output_tokens)), *self._aside, mine]
        usd = self.config.usd(sum(i for i, _ in taken), sum(o for _, o in taken))
        tokens = sum(i + o for i, o in taken)
        return (budget.usd is None or usd <= budget.usd) and (budget.tokens is None or tokens <= budget.tokens)

    def _spent_text(self) -> str:
        spent = f"{self.input_tokens + self.output_tokens} tokens"
        if self.config.prices:
            spent = f"{self.usd:.4f} USD, {spent}"
        cap = ", ".join(f"{name} {value}" for name, value in self.config.budget if value is not None)
        return (
            f"the budget ({cap}) is reached: {spent} are spent, and the next request may exceed it. "
            f"Run again with a higher budget; stored answers are reused for free"
        )

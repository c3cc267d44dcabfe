"""A served model that extracts claims from texts, checks them against other texts, and writes texts from claims.

The model must quote and number, and both are checked. A claim whose quotation is not in the text is ignored. A number
without a claim makes the answer unusable. An unusable answer is requested once more, then the row is dropped.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sicog.curation.claims.readers import ReadSet, Stated, Texts, UnreadableError
from sicog.remote.client import BadImage, Client, Message, NoAnswer, Request, open_client
from sicog.remote.config import EndpointConfig

VERSION = "claims-1"
_MAX_TOKENS = 1024
_EXTRACT = """List every separate fact that the text below states, each as a short sentence that can be understood by \
itself. Quote the words of the text that state it exactly as they stand there. Answer with a JSON array and nothing \
else: [{{"claim": "...", "quote": "..."}}]

Text:
{text}"""
_CHECK = """Which of the numbered statements does the text below say, or clearly imply? Answer with a JSON array of \
their numbers and nothing else, [] for none.

Text:
{text}

Statements:
{claims}"""
_WRITE = """Write one plain description, as running text, that states exactly the facts below: all of them, and \
nothing else. Answer with the description alone.

{claims}"""
_AGAIN = "This answer cannot be used: {reason}. Answer again, in the form that was asked for and nothing else."
_ARRAY = re.compile(r"\[.*\]", re.DOTALL)


class _UnusableError(Exception):
    """An answer in the wrong form."""


@dataclass
class ServedModel:
    """The endpoint; connects at the first request. Answers are cached in `answers`."""

    endpoint: EndpointConfig
    answers: Path
    _open: ExitStack = field(default_factory=ExitStack, repr=False)
    _client: Client | None = None

    @property
    def client(self) -> Client:
        """Raises `ValueError` when address, key or package is missing."""
        if self._client is None:
            self._client = self._open.enter_context(open_client(self.endpoint, self.answers))
        return self._client

    def close(self) -> None:
        """Close the connection."""
        self._open.close()
        self._client = None

    async def ask(self, prompt: str, read: Any, what: str) -> Any:
        """Return the answer as parsed by `read`. Raises `UnreadableError` when the second answer fails too."""
        first = Message("user", (prompt,))
        request = Request((first,), 0.0, _MAX_TOKENS, VERSION)
        try:
            answer = await self.client.ask(request)
            try:
                return read(_complete_answer(answer.text, answer.finish_reason, refused=answer.refusal))
            except _UnusableError as error:
                reply = Message("assistant", (answer.text.strip() or "(no answer)",))
                correction = Message("user", (_AGAIN.format(reason=error),))
                second = await self.client.ask(Request((first, reply, correction), 0.0, _MAX_TOKENS, VERSION))
                return read(_complete_answer(second.text, second.finish_reason, refused=second.refusal))
        except (_UnusableError, NoAnswer, BadImage) as error:
            raise UnreadableError(f"{self.endpoint.model} gave no usable {what}: {error}") from None


@dataclass
class ServedReader:
    """Extracts claims with a served model, which also decides which other texts state them."""

    model: ServedModel

    @property
    def description(self) -> str:
        """Return the model and the version of the prompts."""
        return f"{VERSION} by {self.model.endpoint.model}"

    def read(self, block: Sequence[Texts]) -> list[ReadSet | UnreadableError]:
        """Return the claims of each set, or the error when the model fails."""
        return self.model.client.run([self._one(row) for row in block])

    async def _one(self, row: Texts) -> ReadSet | UnreadableError:
        try:
            claims = await asyncio.gather(*map(self._extract, row.texts))
            stated = await asyncio.gather(*(self._is_stated(text, claims, k) for k, text in enumerate(row.texts)))
        except UnreadableError as error:
            return error
        return ReadSet(tuple(claims), np.stack(stated, axis=1) if stated else np.zeros((0, 0), dtype=bool))

    async def _extract(self, text: str) -> tuple[Stated, ...]:
        if not text.strip():
            return ()
        found: tuple[Stated, ...] = await self.model.ask(
            _EXTRACT.format(text=text), partial(_quoted_claims, text), "list of claims"
        )
        return found

    async def _is_stated(self, text: str, claims: Sequence[tuple[Stated, ...]], k: int) -> NDArray[np.bool_]:
        """Return bool [C]: whether text k states each claim; it states its own."""
        owner_C = np.repeat(np.arange(len(claims)), [len(own) for own in claims])
        others = [claim.key for number, own in enumerate(claims) for claim in own if number != k]
        stated_C = owner_C == k
        distinct = list(dict.fromkeys(others))
        if distinct and text.strip():
            listed = "\n".join(f"{number}. {key}" for number, key in enumerate(distinct, 1))
            prompt = _CHECK.format(text=text, claims=listed)
            numbers = await self.model.ask(prompt, partial(_numbers, len(distinct)), "list of numbers")
            said = {distinct[number - 1] for number in numbers}
            stated_C[owner_C != k] = [key in said for key in others]
        return stated_C


@dataclass
class ServedWriter:
    """Writes one text from claims."""

    model: ServedModel

    def write(self, rows: Sequence[Sequence[str]]) -> list[str | UnreadableError]:
        """Return a text for each list of claims, or the error when the model fails."""
        return self.model.client.run([self._one(claims) for claims in rows])

    async def _one(self, claims: Sequence[str]) -> str | UnreadableError:
        listed = "\n".join(f"- {claim}" for claim in claims)
        try:
            text: str = await self.model.ask(_WRITE.format(claims=listed), _nonempty_answer, "text")
        except UnreadableError as error:
            return error
        return text


def _complete_answer(text: str, finish_reason: str, *, refused: bool) -> str:
    if refused:
        raise _UnusableError(f"it refuses: {text[:100]!r}")
    if finish_reason == "length":
        raise _UnusableError("it is longer than it may be and was cut off")
    return text


def _array(text: str) -> list[Any]:
    found = _ARRAY.search(text)
    try:
        value = orjson.loads(found[0]) if found else None
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, list):
        raise _UnusableError(f"it holds no JSON array: {text[:100]!r}")
    return value


def _quoted_claims(text: str, answer: str) -> tuple[Stated, ...]:
    """Return the claims whose quotation is in the text, each once."""
    value, found = _array(answer), dict[str, Stated]()
    for one in value:
        claim, quote = (one.get("claim"), one.get("quote")) if isinstance(one, dict) else (None, None)
        if not isinstance(claim, str) or not isinstance(quote, str) or not claim.strip() or not quote.strip():
            raise _UnusableError(f'{str(one)[:80]!r} is no {{"claim": ..., "quote": ...}}')
        start = text.find(quote.strip())
        if start >= 0:
            key = " ".join(claim.split())
            found.setdefault(key, Stated(key, "fact", start, start + len(quote.strip())))
    if value and not found:
        raise _UnusableError("none of its quotations stands in the text")
    return tuple(sorted(found.values(), key=lambda claim: (claim.start, claim.end)))


def _numbers(n: int, answer: str) -> list[int]:
    value = _array(answer)
    if wrong := [one for one in value if not isinstance(one, int) or isinstance(one, bool) or not 1 <= one <= n]:
        raise _UnusableError(f"{wrong[0]!r} is no number of a statement, 1 to {n}")
    return value


def _nonempty_answer(answer: str) -> str:
    if not answer.strip():
        raise _UnusableError("it is empty")
    return " ".join(answer.split())

"""Client of an OpenAI-compatible endpoint: concurrency, rate limits, budget, retries, and cached answers.

Only this module imports the `openai` package. The key goes only from the environment to that package. Texts of the
endpoint pass through `_redacted` before they reach a message, a file or an answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import orjson

from sicog.config.packages import import_package
from sicog.remote.budget import Purse
from sicog.remote.config import ASKING, EndpointConfig, text_tokens
from sicog.remote.image_parts import SentPicture
from sicog.remote.limits import Clock, RateLimit
from sicog.remote.retry import back_off_s, retry_after_s
from sicog.remote.store import Answer, AnswerStore, open_store
from sicog.stages.provenance import digest_value

T = TypeVar("T")
LONGEST_WAIT_S = 3600.0  # a longer wait (for example a daily quota) stops the run
UNANSWERED_IN_A_ROW = 20
_RETRIED = frozenset({408, 409, 425, 429})
_ABOUT_THE_REQUEST = frozenset({400, 413, 422})
_FILTERED = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
_NO_QUOTA = "insufficient_quota"


class EndpointRequest(Protocol):
    """A request to an endpoint: a chat (`Request`) or vectors (`embeddings.EmbeddingRequest`)."""

    @property
    def max_tokens(self) -> int:
        """Return the maximum number of tokens of the answer."""

    def key(self, model: str) -> str:
        """Return the digest of everything that determines the answer."""

    def input_tokens(self, pixels_per_token: float) -> int:
        """Return the approximate number of tokens sent."""

    def body(self, model: str) -> dict[str, Any]:
        """Return the body of the request in the protocol's form."""

    def send(self, server: Any, body: dict[str, Any]) -> Awaitable[Any]:
        """Send the body through the `openai` client; returns its raw response."""

    def read(self, reply: Any, estimate: int) -> Answer:
        """Return the answer of a reply. Errors about keys, types or values are retried, `EndpointError` is not."""


@dataclass(frozen=True)
class Message:
    """One message: texts and images in order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | SentPicture, ...]


@dataclass(frozen=True)
class Request:
    """A chat request. version: version of the prompt; another version is another request.

    options: more fields of the protocol, such as ("top_p", 0.9).
    """

    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    version: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    def key(self, model: str) -> str:
        """Return the digest of everything that determines the answer. Reads the image files."""
        messages = [[m.role, [p if isinstance(p, str) else p.identity() for p in m.parts]] for m in self.messages]
        values = {"messages": messages, "temperature": self.temperature, "max_tokens": self.max_tokens}
        if self.options:
            values["options"] = dict(self.options)
        return digest_value({"chat": 1, "model": model, "version": self.version, **values})

    def input_tokens(self, pixels_per_token: float) -> int:
        """Return the approximate number of tokens sent. Raises `ValueError` for an unreadable image."""
        parts = [p for m in self.messages for p in m.parts]
        return sum(text_tokens(p) if isinstance(p, str) else p.tokens(pixels_per_token) for p in parts)

    def body(self, model: str) -> dict[str, Any]:
        """Return the body in the protocol's form. Raises `ValueError` for an image that does not decode."""
        messages = [{"role": m.role, "content": _content(m.parts)} for m in self.messages]
        return {
            "model": model, "messages": messages, "temperature": self.temperature, "max_tokens": self.max_tokens,
            **dict(self.options),
        }  # fmt: skip

    def send(self, server: Any, body: dict[str, Any]) -> Awaitable[Any]:
        """Send the body as a chat request."""
        return server.chat.completions.with_raw_response.create(**body)

    def read(self, reply: Any, estimate: int) -> Answer:
        """Return the first choice of the reply."""
        if not reply.get("choices"):
            raise _RetryableError(f"no choices in the answer: {orjson.dumps(reply).decode()[:200]}")
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message, finish = choice["message"], choice.get("finish_reason") or "stop"
        written, refused = message.get("content") or "", message.get("refusal") or ""
        if not isinstance(written, str) or not isinstance(refused, str):
            raise TypeError("content must be a text")
        tokens = (
            int(usage.get("prompt_tokens") or estimate),
            int(usage.get("completion_tokens") or text_tokens(written)),
        )
        return Answer(refused or written, str(finish), bool(refused) or finish == "content_filter", *tokens)


def _content(parts: Sequence[str | SentPicture]) -> str | list[dict[str, Any]]:
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "image_url", "image_url": {"url": p.data_url()}}
        for p in parts
    ]


class NoAnswer(Exception):  # noqa: N818 - an outcome of one row
    """One request has no answer; others are not affected. `reason` is the snake_case word for `Failed`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class BadImage(Exception):  # noqa: N818 - an outcome of one row
    """An image of the request is unreadable; nothing was sent."""


class EndpointError(ValueError):
    """No request can succeed; the message says what to correct. Stored answers are kept."""


class _StoppedError(Exception):  # noqa: N818 - for requests that wait when the run stops
    """The run stops; `Client.run` raises the reason."""


@dataclass(eq=False)
class _RetryableError(Exception):  # noqa: N818 - handled here
    """A failed attempt that may be retried. lost: an answer was probably written and paid."""

    detail: str
    wait_s: float | None = None
    lost: bool = False


@dataclass
class Client:
    """The endpoint of one config with its store of answers. Created by `open_client`.

    asked: requests that the endpoint answered in this run; stored: requests that the store answered.
    """

    config: EndpointConfig
    store: AnswerStore
    openai: Any = field(repr=False)  # AsyncOpenAI
    key: str | None = field(repr=False)
    clock: Clock = field(default_factory=Clock)
    asked: int = 0
    stored: int = 0
    _random: random.Random = field(default_factory=random.Random)  # jitter does not affect the output
    _unanswered: int = 0
    _stopped: BaseException | None = None
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def __post_init__(self) -> None:
        self.started, model = time.monotonic(), self.config.model
        self.purse = Purse(self.config, self.store.spent(model), self.store.underestimate(model))
        self._limit = RateLimit(self.config.requests_per_minute, self.config.tokens_per_minute, self.clock)
        self._slots, self._work = (asyncio.Semaphore(self.config.concurrency) for _ in range(2))
        self._runner = asyncio.Runner()

    def run(self, work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Run coroutines that send requests, `concurrency` at a time; returns results in order.

        A second request of a coroutine is sent before other coroutines begin, so that errors show early. After an error
        no new request is sent. Requests in flight are awaited and stored, then the error is raised.
        """
        return self._runner.run(self._all(work))

    def close(self) -> None:
        """Close the connections."""
        with self._runner:
            self._runner.run(self.openai.close())

    def stop(self, error: BaseException) -> None:
        """Send no more requests; `run` raises the error after requests in flight have returned."""
        self._stopped = self._stopped or error
        self._limit.stopped = True

    def status(self) -> str:
        """Return counts, rate and cost, for a progress bar."""
        rate = self.asked / max(1e-9, time.monotonic() - self.started)
        money = f", {self.purse.usd:.2f} USD" if self.config.prices else ""
        return f"{self.asked} answers, {rate:.1f}/s, {self.stored} stored{money}"

    async def _all(self, work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        async def run_one(one: Coroutine[Any, Any, T]) -> tuple[T]:
            async with self._work:
                return (await one,)  # distinguish returned errors from raised ones

        results = await asyncio.gather(*map(run_one, work), return_exceptions=True)
        if self._stopped:
            raise self._stopped
        if errors := [r for r in results if isinstance(r, BaseException)]:
            raise errors[0]
        return [r[0] for r in results if not isinstance(r, BaseException)]

    async def ask(self, request: EndpointRequest) -> Answer:
        """Return the stored answer or a new one.

        Raises `NoAnswer` or `BadImage` for this request alone, `EndpointError` or `BudgetReached` to stop the run.
        """
        try:
            key = await asyncio.to_thread(request.key, self.config.model)
        except OSError as error:
            raise BadImage(str(error)) from error
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:  # equal requests at the same time are sent once
            if answer := self.store.get(key):
                self.stored += 1
                return answer
            async with self._slots:
                if self._stopped:
                    raise _StoppedError
                try:
                    return await self._new_answer(key, request)
                except (NoAnswer, BadImage, _StoppedError):
                    raise
                except BaseException as error:
                    self.stop(error)
                    raise

    async def _new_answer(self, key: str, request: EndpointRequest) -> Answer:
        try:
            estimate = await asyncio.to_thread(request.input_tokens, self.config.pixels_per_token)
            body = await asyncio.to_thread(request.body, self.config.model)
        except (ValueError, OSError) as error:
            raise BadImage(str(error)) from error
        trouble = _RetryableError("")
        for attempt in range(1, self.config.attempts + 1):
            async with self.purse.set_aside(estimate, request.max_tokens):
                sent = await self._limit.wait(estimate + request.max_tokens)
                if self._stopped:
                    raise _StoppedError
                try:
                    answer = await self._attempt(request, body, estimate)
                except _RetryableError as error:
                    trouble = error
                    if error.lost:
                        self.purse.count_answer(estimate, request.max_tokens, estimate)
                        self.store.put_lost(self.config.model, estimate, request.max_tokens)
                else:
                    sent.tokens = answer.input_tokens + answer.output_tokens
                    self.purse.count_answer(answer.input_tokens, answer.output_tokens, estimate)
                    self.store.put(key, self.config.model, answer, estimate)
                    self.asked, self._unanswered = self.asked + 1, 0
                    return answer
            if attempt < self.config.attempts:
                await self._wait(attempt, trouble)
        self._unanswered += 1
        if self._unanswered >= UNANSWERED_IN_A_ROW:
            raise EndpointError(
                f"{self._endpoint_name} gave no answer to {self._unanswered} requests in a row "
                f"({trouble.detail}). Check "
                f"that it is running, then run again; stored answers are reused"
            )
        raise NoAnswer("no_answer", f"{self.config.attempts} attempts, the last: {trouble.detail}")

    async def _wait(self, attempt: int, trouble: _RetryableError) -> None:
        pause = back_off_s(attempt, self._random)
        if trouble.wait_s is not None:
            if trouble.wait_s > LONGEST_WAIT_S:
                raise EndpointError(
                    f"{self._endpoint_name} asks to wait {trouble.wait_s:.0f} s ({trouble.detail}). "
                    "Run again after that; "
                    f"stored answers are reused"
                )
            self._limit.hold(trouble.wait_s)  # the pause is for the whole client, not for this request alone
            pause = trouble.wait_s + self._random.uniform(0, 0.5)
        until = self.clock.now() + pause
        while not self._stopped and (left := until - self.clock.now()) > 0:
            await self.clock.sleep(min(left, 1.0))

    async def _attempt(self, request: EndpointRequest, body: dict[str, Any], estimate: int) -> Answer:
        import openai

        try:
            async with asyncio.timeout(self.config.timeout_s):
                raw = await request.send(self.openai, body)
                content = raw.http_response.content
        except (TimeoutError, openai.APITimeoutError):
            raise _RetryableError(f"no answer within {self.config.timeout_s:g} s", lost=True) from None
        except openai.APIStatusError as error:
            self._refuse_status(error)
        except openai.APIConnectionError as error:
            cause = self._redact(str(error.__cause__ or error))
            raise _RetryableError(f"the connection failed ({cause})") from None
        try:
            answer = request.read(orjson.loads(self._redact(content.decode("utf-8", errors="replace"))), estimate)
            return replace(answer, text=self._redact(answer.text))  # redact again: JSON can escape a key
        except EndpointError:
            raise
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise _RetryableError(f"the answer is not of the protocol ({type(error).__name__})", lost=True) from None

    def _refuse_status(self, error: Any) -> NoReturn:
        """Raise the error that belongs to an HTTP status."""
        status, code = int(error.status_code), getattr(error, "code", None)
        detail = f"status {status}: {self._redact(error.response.text)[:300]}"
        if code in _FILTERED:
            raise NoAnswer("refusal", detail) from None
        if (status in _RETRIED or status >= 500) and code != _NO_QUOTA:
            raise _RetryableError(detail, retry_after_s(error.response.headers, self.clock.wall())) from None
        if status in _ABOUT_THE_REQUEST and self.store.count(self.config.model):
            # Other requests were answered, so model and form are right; the content of this row is refused.
            raise NoAnswer("bad_request", detail) from None
        raise EndpointError(
            f"{self._endpoint_name} refuses model {self.config.model!r} ({detail}). "
            "Correct the key, the address, the model's "
            f"name or the settings, and run again; stored answers are reused"
        ) from None

    @property
    def _endpoint_name(self) -> str:
        return f"the endpoint {urlsplit(self.config.url()).netloc}"

    def _redact(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key and len(self.key) >= 8 else text


@contextmanager
def open_client(config: EndpointConfig, answers: Path, clock: Clock | None = None) -> Iterator[Client]:
    """Open a client that stores its answers in the folder `answers`.

    Raises `ValueError` when the address, the key or the `openai` package is missing, before anything is written.
    """
    url, key = config.url(), config.key()
    openai = import_package("openai", ASKING)
    # A proxy cannot reach a server of this machine.
    direct = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    http = openai.DefaultAsyncHttpxClient(trust_env=not direct)
    server = openai.AsyncOpenAI(
        base_url=url, api_key=key or "none", max_retries=0, timeout=config.timeout_s, http_client=http
    )
    with open_store(answers) as store:
        client = Client(config, store, server, key, clock or Clock())
        try:
            yield client
        finally:
            client.close()

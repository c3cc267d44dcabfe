"""Config of an OpenAI-compatible endpoint: model, limits, prices, budget. Needs no `openai`."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.config.packages import missing_package_message

ASKING = "asking an endpoint"

_BASE_URL, _BASE_URL_ENV = "https://api.openai.com/v1", "OPENAI_BASE_URL"
_BYTES_PER_TOKEN = 4


class Prices(Config):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    """Price of input tokens."""
    output: float = Field(ge=0)
    """Price of output tokens."""

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return the cost of these tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class Budget(Config):
    """Maximum cost of the answers of one store, over all restarts; null means no cap."""

    usd: float | None = Field(default=None, gt=0)
    """Maximum US dollars."""
    tokens: int | None = Field(default=None, gt=0)
    """Maximum number of input and output tokens."""


class EndpointConfig(Config):
    """One model behind one OpenAI-compatible endpoint. Only the model determines an answer; all other keys may change
    between restarts."""

    volatile: ClassVar[frozenset[str]] = frozenset(
        {"base_url", "api_key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout_s", "attempts"}
        | {"prices", "budget", "pixels_per_token", "answers"}
    )
    model: str = Field(min_length=1)
    """The model's name at the endpoint."""
    base_url: str | None = None
    """Address of the endpoint; null reads OPENAI_BASE_URL, else OpenAI's own. It must not contain a user, a password or
    a query; give a secret as the key."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """NAME of the environment variable with the key; null for a server without a key."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Maximum number of requests at once."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Maximum requests in any 60 seconds; null means no limit."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Maximum tokens in any 60 seconds; null means no limit."""
    timeout_s: float = Field(default=180, gt=0)
    """Timeout of a whole answer in seconds."""
    attempts: int = Field(default=6, ge=1)
    """Maximum number of attempts of one request before its row fails."""
    prices: Prices | None = None
    """Prices of the model, for estimates and for a budget in US dollars."""
    budget: Budget = Budget()
    pixels_per_token: float = Field(default=784, gt=0)
    """Pixels per token: an image of W x H pixels is estimated as ceil(W * H / this) tokens."""
    answers: Path | None = None
    """Folder of the stored answers; null: a folder next to the step's output."""

    @model_validator(mode="after")
    def _check_prices(self) -> EndpointConfig:
        if self.budget.usd is not None and self.prices is None:
            raise ValueError(
                "prices are missing, but budget.usd needs them. "
                "Set prices={input: .., output: ..} in USD per million tokens"
            )
        return self

    def url(self) -> str:
        """Return the endpoint's address. Raises `ValueError` when it may contain a secret, shown in messages."""
        url = self.base_url or os.environ.get(_BASE_URL_ENV) or _BASE_URL
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url (or {_BASE_URL_ENV}) must be like https://host/v1 or http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"base_url (or {_BASE_URL_ENV}) contains a user, a password or a query. Put the secret into the "
                f"environment variable of api_key_env, and give only the address here"
            )
        return url

    def key(self) -> str | None:
        """Return the key from the environment. Raises `ValueError` with the name of the variable if it is not set."""
        if self.api_key_env is None:
            return None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            # Do not print the value: it may be the key itself.
            raise ValueError("api_key_env must be the name of an environment variable, such as OPENAI_API_KEY")
        if not (key := os.environ.get(self.api_key_env, "").strip()):
            raise ValueError(
                f"the environment variable {self.api_key_env} is not set. Export the endpoint's key in it, "
                f"or set api_key_env=null for a server without a key"
            )
        return key

    def problems(self, processes: int = 1) -> list[str]:
        """Report a missing package, a bad address, or a missing key."""
        found = [*super().problems(), *missing_package_message("openai", ASKING)]
        try:
            self.check()
        except ValueError as error:
            found.append(str(error))
        return found

    def check(self) -> None:
        """Raise `ValueError` when the address or the key is missing or wrong."""
        self.url()
        self.key()

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return the cost of these tokens by the config's prices; 0 without prices."""
        return self.prices.usd(input_tokens, output_tokens) if self.prices else 0.0


def text_tokens(text: str) -> int:
    """Return the approximate number of tokens of a text: one per four bytes of UTF-8, rounded up."""
    return math.ceil(len(text.encode(errors="surrogatepass")) / _BYTES_PER_TOKEN)

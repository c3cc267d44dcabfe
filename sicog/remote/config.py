"""What a run says about an OpenAI-compatible endpoint: model, limits, prices, budget. Needs no `openai`."""

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
    """US dollars for a million tokens."""

    input: float = Field(ge=0)
    """Of the tokens that are sent."""
    output: float = Field(ge=0)
    """Of the tokens that are answered."""

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """What so many tokens cost."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class Budget(Config):
    """What may be spent on the answers of one store, over all restarts; null means no cap."""

    usd: float | None = Field(default=None, gt=0)
    """US dollars at most."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens at most, sent and answered."""


class EndpointConfig(Config):
    """One model behind one OpenAI-compatible endpoint. Only the model decides an answer: all else may change between
    restarts."""

    volatile: ClassVar[frozenset[str]] = frozenset(
        {"base_url", "api_key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout_s", "attempts"}
        | {"prices", "budget", "pixels_per_token", "answers"}
    )
    model: str = Field(min_length=1)
    """The model's name at the endpoint."""
    base_url: str | None = None
    """Address of the endpoint; null reads OPENAI_BASE_URL, else OpenAI's own. It holds no user, password or query: a
    secret is a key."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """NAME of the environment variable that holds the key; null for a server that needs none."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Requests at once."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """No 60 seconds hold more requests; null means no limit."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """No 60 seconds hold more tokens; null means no limit."""
    timeout_s: float = Field(default=180, gt=0)
    """Seconds for a whole answer."""
    attempts: int = Field(default=6, ge=1)
    """How often one request is sent before its row fails."""
    prices: Prices | None = None
    """Prices of the model, for estimates and for a budget in US dollars."""
    budget: Budget = Budget()
    pixels_per_token: float = Field(default=784, gt=0)
    """An image of W x H pixels is counted as ceil(W * H / this) tokens before the endpoint says more."""
    answers: Path | None = None
    """Folder of the stored answers; null lets the step choose one beside its output."""

    @model_validator(mode="after")
    def _money_needs_prices(self) -> EndpointConfig:
        if self.budget.usd is not None and self.prices is None:
            raise ValueError("a budget in usd needs prices, {input: .., output: ..} in USD per million tokens")
        return self

    def url(self) -> str:
        """The endpoint's address. Raises `ValueError` when it could hold a secret, which would end up in messages."""
        url = self.base_url or os.environ.get(_BASE_URL_ENV) or _BASE_URL
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url (or {_BASE_URL_ENV}) must be like https://host/v1 or http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"base_url (or {_BASE_URL_ENV}) holds a user, a password or a query; put the secret into the "
                f"environment variable that api_key_env names, and leave the address bare"
            )
        return url

    def key(self) -> str | None:
        """The key, from the environment alone. Raises `ValueError` naming the variable that is not set."""
        if self.api_key_env is None:
            return None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            # It may be the key itself, so it is not repeated here.
            raise ValueError("api_key_env must be the name of an environment variable, such as OPENAI_API_KEY")
        if not (key := os.environ.get(self.api_key_env, "").strip()):
            raise ValueError(
                f"the environment variable {self.api_key_env} is not set: export the endpoint's key in it, "
                f"or say api_key_env=null for a server that needs none"
            )
        return key

    def problems(self, processes: int = 1) -> list[str]:
        """No package to ask with, an address that is none, or no key."""
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
        """What so many tokens cost by the config's prices; 0 without any."""
        return self.prices.usd(input_tokens, output_tokens) if self.prices else 0.0


def text_tokens(text: str) -> int:
    """About how many tokens a text has: one for four bytes of UTF-8, rounded up."""
    return math.ceil(len(text.encode(errors="surrogatepass")) / _BYTES_PER_TOKEN)

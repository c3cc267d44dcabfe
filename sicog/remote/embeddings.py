"""Vectors of texts from an OpenAI-compatible endpoint's `/embeddings`, asked through the one client."""

from __future__ import annotations

import base64
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sicog.remote.client import EndpointError
from sicog.remote.config import text_tokens
from sicog.remote.store import Answer
from sicog.stages.provenance import digest_value


@dataclass(frozen=True)
class EmbeddingRequest:
    """The vectors of some texts, in one request. Their answer's text is for `vectors` to read."""

    texts: tuple[str, ...]

    @property
    def max_tokens(self) -> int:
        """Nothing is written."""
        return 0

    def key(self, model: str) -> str:
        """The digest of everything that decides the answer."""
        return digest_value({"embeddings": 1, "model": model, "texts": self.texts})

    def input_tokens(self, pixels_per_token: float) -> int:
        """About how many tokens are sent."""
        return sum(map(text_tokens, self.texts))

    def body(self, model: str) -> dict[str, Any]:
        """The request as the protocol has it."""
        return {"model": model, "input": list(self.texts), "encoding_format": "float"}

    def send(self, server: Any, body: dict[str, Any]) -> Awaitable[Any]:
        """Send the body as a request for embeddings."""
        return server.embeddings.with_raw_response.create(**body)

    def read(self, reply: Any, estimate: int) -> Answer:
        """The vectors of the reply. Raises `EndpointError` when they are not those of the texts in their order."""
        found, usage = reply["data"], reply.get("usage") or {}
        if (places := [one["index"] for one in found]) != list(range(len(self.texts))):
            raise EndpointError(
                f"the endpoint gave vectors {str(places)[:60]} for {len(self.texts)} texts, which shall come once each "
                f"and in order; try encoder.texts_per_request=1, or another server"
            )
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
                vectors_ND = np.array([one["embedding"] for one in found], dtype="<f4")
        except ValueError:  # of rows of different lengths, or texts
            vectors_ND = np.zeros(0, dtype="<f4")
        if vectors_ND.ndim != 2 or not vectors_ND.shape[1] or not np.isfinite(vectors_ND).all():
            raise EndpointError(
                "the endpoint gave vectors of different lengths, or of what is no finite number; is its model one "
                "for embeddings?"
            )
        tokens = int(usage.get("prompt_tokens") or estimate)
        return Answer(base64.b64encode(vectors_ND.tobytes()).decode(), "stop", False, tokens, 0)

    def vectors(self, answer: Answer) -> NDArray[np.float32]:
        """Float32 [N, D], as the endpoint gave them, in the order of the texts."""
        return np.frombuffer(base64.b64decode(answer.text), dtype="<f4").reshape(len(self.texts), -1)

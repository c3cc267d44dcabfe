"""Embeddings of texts from an OpenAI-compatible endpoint (`/embeddings`), through the shared client."""

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
    """A request for the vectors of some texts. `vectors` decodes the text of its answer."""

    texts: tuple[str, ...]

    @property
    def max_tokens(self) -> int:
        """Return 0: the endpoint writes no text."""
        return 0

    def key(self, model: str) -> str:
        """Return the digest of everything that determines the answer."""
        return digest_value({"embeddings": 1, "model": model, "texts": self.texts})

    def input_tokens(self, pixels_per_token: float) -> int:
        """Return the approximate number of tokens sent."""
        return sum(map(text_tokens, self.texts))

    def body(self, model: str) -> dict[str, Any]:
        """Return the body of the request in the protocol's form."""
        return {"model": model, "input": list(self.texts), "encoding_format": "float"}

    def send(self, server: Any, body: dict[str, Any]) -> Awaitable[Any]:
        """Send the body as a request for embeddings."""
        return server.embeddings.with_raw_response.create(**body)

    def read(self, reply: Any, estimate: int) -> Answer:
        """Return the vectors of the reply. Raises `EndpointError` unless there is one per text, in order."""
        found, usage = reply["data"], reply.get("usage") or {}
        if (places := [one["index"] for one in found]) != list(range(len(self.texts))):
            raise EndpointError(
                f"the endpoint gave vectors {str(places)[:60]} for {len(self.texts)} texts, expected one per text, "
                f"in order. Set encoder.texts_per_request=1, or use another server"
            )
        try:
            with np.errstate(over="ignore"):  # too large numbers become infinite, and are refused below
                vectors_ND = np.array([one["embedding"] for one in found], dtype="<f4")
        except ValueError:  # raised for rows of different lengths, or texts
            vectors_ND = np.zeros(0, dtype="<f4")
        if vectors_ND.ndim != 2 or not vectors_ND.shape[1] or not np.isfinite(vectors_ND).all():
            raise EndpointError(
                "the endpoint gave vectors of different lengths, or values that are not finite numbers. Check that its "
                "model is an embedding model"
            )
        tokens = int(usage.get("prompt_tokens") or estimate)
        return Answer(base64.b64encode(vectors_ND.tobytes()).decode(), "stop", False, tokens, 0)

    def vectors(self, answer: Answer) -> NDArray[np.float32]:
        """Return the raw vectors, float32 [N, D], in the order of the texts."""
        return np.frombuffer(base64.b64decode(answer.text), dtype="<f4").reshape(len(self.texts), -1)

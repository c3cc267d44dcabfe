"""An encoder behind an OpenAI-compatible endpoint (`/embeddings`); answers are cached."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sicog.curation.vectors.encoders import EncoderConfig
from sicog.curation.vectors.vector_cache import Encoded, shortened_text
from sicog.remote.client import Client, NoAnswer, open_client
from sicog.remote.embeddings import EmbeddingRequest
from sicog.stages.provenance import digest_value


class ServedEncoder:
    """The encoder of a config of kind `endpoint`. answers: folder of the stored answers."""

    def __init__(self, config: EncoderConfig, answers: Path) -> None:
        assert config.endpoint is not None
        self.config, self.endpoint, self.settings = config, config.endpoint, config.settings()
        self.answers = self.endpoint.answers or answers
        self.endpoint.check()
        self._open = ExitStack()
        self._client: Client | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": ExitStack(), "_client": None}

    @property
    def description(self) -> str:
        """Return the model's name, revision, prefix and suffix; the server's own settings are unknown."""
        revision = f"@{self.config.revision}" if self.config.revision else ""
        return ", ".join(filter(None, (f"openai:{self.endpoint.model}{revision}", self.settings.summary())))

    @property
    def key(self) -> str:
        """Return a digest of the description."""
        return digest_value([self.config.kind, self.description])[:32]

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the endpoint's vectors; truncation is unknown. Raises `ValueError`."""
        whole = [f"{self.settings.prefix}{text}{self.settings.suffix}" for text in texts]
        order = sorted(range(len(whole)), key=lambda i: (-len(whole[i]), i))  # similar lengths per request
        size = self.config.texts_per_request
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        client = self._open_client()
        found = client.run(self._vectors(client, [whole[i] for i in part]) for part in parts)
        if len(widths := {vectors.shape[1] for vectors in found}) > 1:
            raise ValueError(
                f"the endpoint gave vectors of different lengths ({sorted(widths)}). Check that it serves one model"
            )
        vectors_ND = np.concatenate(found)
        return Encoded(vectors_ND[np.argsort(order)], np.zeros(len(texts), dtype=np.bool_))

    def close(self) -> None:
        """Close the connections and the store."""
        self._open.close()
        self._client = None

    def _open_client(self) -> Client:
        if self._client is None:
            self._client = self._open.enter_context(open_client(self.endpoint, self.answers))
        return self._client

    async def _vectors(self, client: Client, texts: list[str]) -> NDArray[np.float32]:
        request = EmbeddingRequest(tuple(texts))
        try:
            return request.vectors(await client.ask(request))
        except NoAnswer as error:
            if len(texts) > 1 and error.reason == "bad_request":  # send texts one by one to find the bad one
                return np.concatenate([await self._vectors(client, [text]) for text in texts])
            first = ValueError(
                "no vector for the text "
                f"{shortened_text(texts[0])}{f' and {len(texts) - 1} more' if texts[1:] else ''}: "
                f"{error}. Every text needs a vector. Correct the text and run again; stored answers are reused"
            )
            client.stop(first)
            raise first from None

"""Tokenise content without the tokenizer's added tokens."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


class PlainText:
    """The tokenizer's model without its added tokens, so any text stays text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer; one with a tokenizer.json is needed")
        self._tokenizer = Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._tokenizer.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._tokenizer.pre_tokenizer = backend.pre_tokenizer

    def __deepcopy__(self, memo: dict[int, Any]) -> PlainText:
        return self  # immutable and large, and saving a processor copies its attributes

    def encode(self, text: str) -> list[int]:
        """Token ids of the text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids if text else []

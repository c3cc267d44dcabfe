"""Encoded rows to one padded batch, with the ids of its rows for error messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sicog.model.processing import Encoded, SicogProcessor


class PaddedCollator:
    """Right-padded tensors as the model takes them, and `ids`: list of str, which the trainer takes out again."""

    def __init__(self, processor: SicogProcessor) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[tuple[str, Encoded]]) -> dict[str, Any]:
        batch = self.processor.collate([encoded for _, encoded in rows], padding_side="right", with_labels=True)
        return {**batch, "ids": [row_id for row_id, _ in rows]}

"""Collate encoded rows to one batch, padded or packed, with row ids for error messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sicog.model.processing import Encoded, SicogProcessor


class PaddedCollator:
    """Right-padded tensors for the model, and `ids`: list of str, which the trainer removes.

    image_positions and supervised_positions int64: as `SicogForConditionalGeneration.forward` takes them.
    """

    def __init__(self, processor: SicogProcessor) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[tuple[str, Encoded]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.processor.collate(
            [encoded for _, encoded in rows], padding_side="right", with_labels=True
        )
        return {**batch, **_positions(batch, self.processor.image_token_id), "ids": [row_id for row_id, _ in rows]}


def _positions(batch: dict[str, Any], image_token_id: int) -> dict[str, Any]:
    """What the model would have to ask the GPU for: where placeholders and supervised positions are in B * T."""
    from sicog.model.kernels.loss_head import positions_before_targets

    images = batch["input_ids"].flatten().eq(image_token_id).nonzero()[:, 0]
    return {"image_positions": images, "supervised_positions": positions_before_targets(batch["labels"])}


class PackedCollator:
    """All documents of a micro-batch end to end in one row, without padding, for the model's `document_borders`.

    input_ids, labels and position_ids int64 [1, T]: positions restart with every document, and the first label of a
    document is never a target. document_borders int32 [D + 1]. Patches and `ids` as in `PaddedCollator`. A row may be
    several documents (a sequence of `Encoded`).
    """

    def __init__(self, image_token_id: int) -> None:
        self.image_token_id = image_token_id

    def __call__(self, rows: Sequence[tuple[str, Encoded | Sequence[Encoded]]]) -> dict[str, Any]:
        import torch

        from sicog.model.image_processing import concatenated_arrays
        from sicog.model.processing import IGNORED_LABEL, Encoded

        documents = [e for _, row in rows for e in ([row] if isinstance(row, Encoded) else row)]
        lengths = [len(e.input_ids) for e in documents]
        labels = [label for e in documents for label in (IGNORED_LABEL, *e.labels[1:])]
        batch: dict[str, Any] = {
            "input_ids": torch.tensor([[i for e in documents for i in e.input_ids]]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
            "document_borders": torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)),
        }
        if pixels := [e.pixel_values for e in documents if e.pixel_values is not None]:
            batch["pixel_values"] = torch.from_numpy(concatenated_arrays(pixels))
            batch["view_sizes"] = torch.from_numpy(np.concatenate([e.view_sizes for e in documents]))
            batch["image_grids"] = torch.from_numpy(np.concatenate([e.image_grids for e in documents]))
        return {**batch, **_positions(batch, self.image_token_id), "ids": [row_id for row_id, _ in rows]}

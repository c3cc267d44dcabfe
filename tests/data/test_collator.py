"""The packed collator: documents end to end, no target across a border, two documents of one row."""

from __future__ import annotations

import numpy as np
import torch

from sicog.data.collator import PackedCollator
from sicog.model.processing import Encoded

IMAGE = 12


def encoded(n: int, *, views: int = 0, supervised: bool = True) -> Encoded:
    ids = list(range(10, 10 + n))
    return Encoded(
        input_ids=ids,
        labels=ids if supervised else [-100] * n,
        pixel_values=np.full((4 * views, 588), n, dtype=np.float32) if views else None,
        view_sizes=np.full((views, 2), 2, dtype=np.int64),
        image_grids=np.zeros((views, 2), dtype=np.int64),
    )


def test_documents_lie_end_to_end_without_padding_or_a_target_across_a_border() -> None:
    batch = PackedCollator(IMAGE)([("a", encoded(3, views=1)), ("b", encoded(1)), ("c", encoded(2, views=2))])
    assert batch["input_ids"].tolist() == [[10, 11, 12, 10, 10, 11]]
    assert batch["labels"].tolist() == [[-100, 11, 12, -100, -100, 11]]  # each first label was an id
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch["document_borders"].tolist() == [0, 3, 4, 6] and batch["document_borders"].dtype == torch.int32
    assert batch["pixel_values"][:, 0].tolist() == [3] * 4 + [2] * 8
    assert batch["view_sizes"].shape == (3, 2) and batch["image_grids"].shape == (3, 2)
    assert batch["ids"] == ["a", "b", "c"] and "attention_mask" not in batch
    assert batch["image_positions"].tolist() == [2]  # of the id 12
    assert batch["supervised_positions"].tolist() == [0, 1, 4]


def test_a_row_may_hold_two_documents() -> None:
    batch = PackedCollator(IMAGE)([("a", [encoded(2), encoded(3)]), ("b", [encoded(1), encoded(1)])])
    assert batch["document_borders"].tolist() == [0, 2, 5, 6, 7] and batch["ids"] == ["a", "b"]
    assert "pixel_values" not in batch

"""The dataset of training rows: read one by one from mapped tables, with known lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sicog.data.image_folder import ImageFolder, load_images
from sicog.data.noise import RowNoise, swap_left_right
from sicog.data.rows.sources import PlacedRow
from sicog.data.rows.table import RowTable
from sicog.data.selection import Selection
from sicog.model.lengths import RowLengths
from sicog.records import Example

if TYPE_CHECKING:
    from PIL import Image

    from sicog.model.processing import Encoded, SicogProcessor


class ExampleDataset:
    """Map-style dataset of encoded rows: `dataset[i]` is `(id, Encoded)`; `lengths` are those of the rows.

    Memory holds two numbers and the lengths of each row. The rows stay in the files of their tables, also in workers.
    """

    def __init__(
        self,
        tables: Sequence[RowTable],
        selection: Selection,
        lengths: RowLengths,
        processor: SicogProcessor,
        images: ImageFolder,
        *,
        slicing: bool,
        cache: Path,
        noise: RowNoise | None = None,
    ) -> None:
        assert len(selection) == len(lengths), f"{len(selection)} rows but {len(lengths)} lengths"
        self.tables = tables
        self.selection = selection
        self.lengths = lengths
        self.processor = processor
        self.images = images
        self.slicing = slicing
        self.cache = cache
        self.noise = noise

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, index: int) -> tuple[str, Encoded]:
        table, row = self._row(index)
        example = row[0]
        try:
            images = load_images(table, row, self.images)
            encoded = self._encode(example, images, int(self.lengths.tokens[index]))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"row {example.id} could be read before training, but not now: {error}. Was the image changed? "
                f"Replace or remove it and run again; training resumes from its last checkpoint"
            ) from error
        n, expected = len(encoded.input_ids), int(self.lengths.tokens[index])
        if n != expected:
            raise ValueError(
                f"row {example.id} had {expected} tokens when it was measured and has {n} now: its image has been "
                f"changed since. Put it back, or remove {self.cache / 'lengths'} to have all rows measured again"
            )
        return example.id, encoded

    def _encode(self, example: Example, images: Sequence[Image.Image], tokens: int) -> Encoded:
        if self.noise is None:
            return self.processor.encode(example.turns, images, slicing=self.slicing)
        if images and self.noise.mirrors(example.id):  # without an image `left` and `right` do not describe one
            seen = self.noise.images(example.id, images, mirrored=True)
            encoded = self.processor.encode(swap_left_right(example.turns), seen, slicing=self.slicing)
            if len(encoded.input_ids) == tokens:  # else the swapped words have another number of tokens
                return encoded
        seen = self.noise.images(example.id, images, mirrored=False)
        return self.processor.encode(example.turns, seen, slicing=self.slicing)

    def ids(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """The ids of some rows."""
        chosen = self.selection[np.asarray(indices, dtype=np.int64)]
        return [self.tables[t].ids([r])[0] for t, r in zip(chosen.table.tolist(), chosen.row.tolist(), strict=True)]

    def _row(self, index: int) -> tuple[RowTable, PlacedRow]:
        table = self.tables[int(self.selection.table[index])]
        return table, table.row(int(self.selection.row[index]))

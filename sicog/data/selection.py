"""Select rows of tables for a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Selection:
    """The rows of a dataset in order. table: int32 [N], number of the table; row: int64 [N], row in the table."""

    table: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, chosen: np.ndarray) -> Selection:
        return Selection(self.table[chosen], self.row[chosen])

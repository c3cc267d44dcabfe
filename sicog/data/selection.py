"""Which rows of which tables make a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Selection:
    """Rows of tables in the order of a data set: int32 [N], the table's number, and int64 [N], the row in it."""

    table: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, chosen: np.ndarray) -> Selection:
        return Selection(self.table[chosen], self.row[chosen])

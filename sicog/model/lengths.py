"""The lengths of rows, known before the model runs, for plans of batches, memory and FLOPs. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RowLengths:
    """One int32 value for each of N rows, [N] each.

    tokens: positions of the language model, image tokens included. supervised: those with a label that is a target.
    views: slices and thumbnails of all its images. patches: of all its views.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    views: np.ndarray
    patches: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(cls, values: np.ndarray) -> RowLengths:
        """From int32 [N, 4], in the order of the fields."""
        return cls(*(np.ascontiguousarray(column) for column in values.T))

    def as_array(self) -> np.ndarray:
        """int32 [N, 4], in the order of the fields."""
        return np.stack([self.tokens, self.supervised, self.views, self.patches], axis=1)


@dataclass(frozen=True)
class RowCost:
    """Coefficients of the training FLOPs of a row, by its lengths; see `sicog.estimates.arithmetic.flops.row_cost`.

    token_pair: for each pair of positions, tokens squared.
    """

    token: float
    token_pair: float
    supervised: float
    view: float
    patch: float

    def of(self, lengths: RowLengths) -> np.ndarray:
        """float64 [N]: the FLOPs of each row."""
        tokens, supervised, views, patches = (
            x.astype(np.float64) for x in (lengths.tokens, lengths.supervised, lengths.views, lengths.patches)
        )
        cost: np.ndarray = (
            self.token * tokens
            + self.token_pair * tokens**2
            + self.supervised * supervised
            + self.view * views
            + self.patch * patches
        )
        return cost

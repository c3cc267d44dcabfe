"""Measure a mixture: its usable rows with their lengths, and its dropped rows in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sicog.data.image_folder import ImageFolder
from sicog.data.measure import Measure, Measurement, measure_table
from sicog.data.mixture import Mixture
from sicog.data.selection import Selection
from sicog.model.lengths import RowLengths
from sicog.records import Dropped


@dataclass(frozen=True)
class UsableRows:
    """The usable rows of a mixture. `lengths` and `selection` have one value for each row."""

    mixture: Mixture
    selection: Selection
    lengths: RowLengths
    measured: dict[str, tuple[np.ndarray, Measurement]]

    def dropped_rows(self) -> Iterator[Dropped]:
        """First the unreadable rows, then the unusable ones, each in order."""
        yield from self.mixture.dropped_rows()
        drops = {
            key: dict(zip(rows[~measurement.usable].tolist(), measurement.dropped_rows(), strict=True))
            for key, (rows, measurement) in self.measured.items()
        }
        for number, table in enumerate(self.mixture.tables):
            rows = self.mixture.selection.row[self.mixture.selection.table == number]
            unusable = drops[table.key]
            yield from (unusable[row] for row in rows[np.isin(rows, list(unusable))].tolist())


def measure_mixture(
    mixture: Mixture, measure: Measure, images: ImageFolder, *, max_length: int, cache: Path
) -> UsableRows:
    """Measure each row of a mixture once, even if the mixture repeats it."""
    chosen = mixture.selection
    keys = [table.key for table in mixture.tables]
    measured: dict[str, tuple[np.ndarray, Measurement]] = {}
    lengths = np.zeros((len(chosen), 4), dtype=np.int32)
    for key, table in zip(keys, mixture.tables, strict=True):
        if key in measured:
            continue
        here = np.isin(chosen.table, [number for number, other in enumerate(keys) if other == key])
        rows = np.unique(chosen.row[here])
        measurement = measure_table(table, rows, measure, images, max_length=max_length, cache=cache)
        measured[key] = rows, measurement
        lengths[here] = measurement.lengths.as_array()[np.searchsorted(rows, chosen.row[here])]
    usable = lengths[:, 0] > 0
    return UsableRows(mixture, chosen[usable], RowLengths.of(lengths[usable]), measured)

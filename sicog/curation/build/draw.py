"""Sample the rows of a built set, in seeded order and with unique ids. Needs about 60 bytes per row."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from sicog.curation.numbered_rows import Rows
from sicog.curation.overlap.clusters import Numbers, is_among, repeated_keys
from sicog.curation.score.self_consistency import hash128
from sicog.curation.words import Hashes, mix_bits
from sicog.records import Dropped, Example

_AT_ONCE = 4096  # ids


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """A sampled row with its new id. original_id: its id in the source; task: its task in the source."""

    id: str
    example: Example
    original_id: str
    task: str
    repetition: int


@dataclass(frozen=True)
class Ids:
    """Keys of the N rows of all sources, uint64 [N]: 128 bits of the id, a sampling key and an order key."""

    high: Hashes
    low: Hashes
    draw: Hashes
    order: Hashes

    @classmethod
    def read(cls, names: Sequence[str], sources: Sequence[Rows], seed: int) -> Ids:
        """Read all ids once. Raises `ValueError` for an id that occurs twice in its source."""
        columns = np.zeros((4, sum(map(len, sources))), dtype=np.uint64)
        start = row = 0
        for name, source in zip(names, sources, strict=True):
            row_ids = source.ids()
            while block := [_keys(row_id, seed, name) for row_id in islice(row_ids, _AT_ONCE)]:
                columns[:, row : row + len(block)] = np.array(block, dtype=np.uint64).T
                row += len(block)
            if len(twice := _repeated_rows(*columns[:2, start:row])):
                raise ValueError(_duplicate_message(source, twice.tolist()))
            start = row
        return cls(*columns)

    def is_shared(self) -> np.ndarray:
        """Return bool [N]: whether another source has the same id."""
        shared = np.zeros(len(self.high), dtype=bool)
        ones, others = _equal_pairs(self.high, self.low)
        shared[ones] = shared[others] = True
        return shared

    def positions(self, start: int, stop: int, row_ids: Sequence[str]) -> Numbers:
        """Return int64: the row in start..stop of each id, -1 for ids that do not occur."""
        order = np.argsort(self.high[start:stop], kind="stable")
        highs, found = self.high[start:stop][order], np.full(len(row_ids), -1, dtype=np.int64)
        for k, row_id in enumerate(row_ids):
            high, low = _digest(row_id)
            at = int(np.searchsorted(highs, np.uint64(high)))
            while at < len(highs) and highs[at] == high:
                if self.low[start + order[at]] == low:
                    found[k] = start + order[at]
                at += 1
        return found


def _digest(row_id: str) -> tuple[int, int]:
    digest = hashlib.blake2b(row_id.encode(errors="surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def _keys(row_id: str, seed: int, name: str) -> tuple[int, int, int, int]:
    key = hash128(seed, name, "0", row_id)
    return *_digest(row_id), key >> 64, hash128(key, "order") >> 64


def _equal_pairs(high: Hashes, low: Hashes) -> tuple[Numbers, Numbers]:
    """Pairs of rows with the same id, neighbours in order of id, the earlier one first."""
    rows = np.flatnonzero(is_among(high, repeated_keys(high)))  # equal ids are rare, so copy only those
    order = rows[np.lexsort((low[rows], high[rows]))]
    same = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    return order[:-1][same], order[1:][same]


def _repeated_rows(high: Hashes, low: Hashes) -> Numbers:
    """The rows whose id an earlier row has."""
    return np.sort(_equal_pairs(high, low)[1]).astype(np.int64)


def _duplicate_message(source: Rows, rows: Sequence[int]) -> str:
    record = next(iter(source.read(rows[:1])))
    where = getattr(source, "where", lambda row: f"{source.path}: row {row + 1}")(rows[0])
    return f"{where}: id {record.id!r} occurs twice in {source.path}. Give each row its own id"


def taken_rows(ids: Ids, rows: Numbers, which: str, n: int) -> Numbers:
    """`n` of the rows, in order: the `first` ones, those at the `end`, or a draw."""
    if which == "random":
        return np.sort(rows[np.argsort(ids.draw[rows], kind="stable")[:n]])
    return rows[:n] if which == "first" else rows[len(rows) - n :]


def draw_rows(ids: Ids, rows: Numbers, wanted: int) -> Iterator[tuple[Numbers, int, Hashes]]:
    """Sample `wanted` rows: whole copies first, then a random rest. Yields (rows, repetition, order keys)."""
    repetition = 0
    while wanted > 0 and len(rows):
        salt = mix_bits(np.array([repetition], dtype=np.uint64))
        order = mix_bits(ids.order[rows] ^ salt) if repetition else ids.order[rows]
        if wanted < len(rows):
            keys = mix_bits(ids.draw[rows] ^ salt) if repetition else ids.draw[rows]
            some = np.argsort(keys, kind="stable")[:wanted]
            yield rows[some], repetition, order[some]
        else:
            yield rows, repetition, order
        wanted, repetition = wanted - len(rows), repetition + 1


def draw_by_weight(ids: Ids, rows: Numbers, weights: np.ndarray, wanted: int) -> Iterator[tuple[Numbers, int, Hashes]]:
    """Sample `wanted` rows in proportion to their weights, float64 [rows]. Yields (rows, repetition, order keys).

    Systematic sampling: rows lie in random order on a line, each as long as its weight. One row is taken at every
    `1/wanted` of the line. So each row occurs as often as its weight says, rounded down or up.
    """
    order = np.argsort(ids.draw[rows], kind="stable")
    rows, ends = rows[order], np.cumsum(weights[order])
    times = np.diff(np.floor(ends * (wanted / ends[-1]) + 0.5), prepend=0.0) if wanted else np.zeros(len(rows))
    for repetition in range(int(times.max(initial=0))):
        some = rows[times > repetition]
        salt = mix_bits(np.array([repetition], dtype=np.uint64))
        yield some, repetition, mix_bits(ids.order[some] ^ salt) if repetition else ids.order[some]


def weights_of(source: Rows, numbers: Sequence[int], name: str) -> np.ndarray:
    """Return float64: the number `name` in the `extra` of these rows. Raises `ValueError` unless it is above 0."""
    found = np.zeros(len(numbers))
    for place, row in enumerate(source.read(numbers)):
        assert isinstance(row, Example)
        value = row.extra.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            there = ", ".join(sorted(row.extra)) or "nothing"
            raise ValueError(
                f"weight_by {name}: row {row.id} of {source.path} has {value!r}, which is not a number above 0. "
                "Correct "
                f"the row, or name another key; its extra has {there}"
            )
        found[place] = value
    return found


@dataclass(frozen=True)
class MixedRows:
    """Input of `build`: the sampled rows in order, then all excluded rows as `Dropped`.

    rows: int64, numbered over all sources; repetitions: uint16. shared: whether a row's id is in several sources.
    left_out: (row, reason, detail) of excluded rows.
    """

    names: tuple[str, ...]
    sources: tuple[Rows, ...]
    rows: Numbers
    repetitions: np.ndarray
    shared: np.ndarray
    left_out: tuple[tuple[int, str, str], ...]

    def __len__(self) -> int:
        return len(self.rows) + len(self.left_out) + sum(source.n_dropped for source in self.sources)

    def dropped_by_source(self) -> dict[str, dict[str, int]]:
        """Return the number of excluded rows of each source, by reason."""
        counts: dict[str, Counter[str]] = {name: Counter() for name in self.names}
        numbers, _ = self._places(np.array([row for row, _, _ in self.left_out], dtype=np.int64))
        for number, (_, reason, _) in zip(numbers.tolist(), self.left_out, strict=True):
            counts[self.names[number]][reason] += 1
        for name, source in zip(self.names, self.sources, strict=True):
            counts[name].update(drop.reason for drop in source.dropped_rows())
        return {name: dict(sorted(found.items())) for name, found in counts.items()}

    def check_ids(self) -> None:
        """Raise `ValueError` when two rows would get the same id."""
        if not (self.shared.any() or self.repetitions.any()):
            return
        times, row = np.bincount(self.rows, minlength=len(self.shared)), 0
        columns = array("Q"), array("Q")
        for number, source in enumerate(self.sources):
            for row_id in source.ids():
                for repetition in range(times[row]):
                    for column, value in zip(columns, _digest(self._id(row_id, row, number, repetition)), strict=True):
                        column.append(value)
                row += 1
        if len(twice := _repeated_rows(*(np.frombuffer(column, dtype=np.uint64) for column in columns))):
            raise ValueError(
                f"{len(twice)} ids cannot be made unique: an id plus its source or repetition equals another id. "
                f"Rename a source"
            )

    def read(self, start: int, stop: int) -> Iterator[DrawnRow | Dropped]:
        """Rows start..stop."""
        yield from self._drawn_rows(start, min(stop, len(self.rows)))
        begin = max(0, start - len(self.rows))
        yield from self._dropped_rows(begin, max(begin, stop - len(self.rows)))

    def _drawn_rows(self, start: int, stop: int) -> Iterator[DrawnRow]:
        rows, repetitions = self.rows[start:stop], self.repetitions[start:stop].tolist()
        numbers, at = self._places(rows)
        readers = [source.read(at[numbers == k].tolist()) for k, source in enumerate(self.sources)]
        for row, number, repetition in zip(rows.tolist(), numbers.tolist(), repetitions, strict=True):
            example = next(iter(readers[number]))
            assert isinstance(example, Example)
            row_id = self._id(example.id, row, number, repetition)
            renamed = example.model_copy(update={"id": row_id, "source": self.names[number]})
            yield DrawnRow(row_id, renamed, example.id, example.source, repetition)

    def _places(self, rows: Numbers) -> tuple[Numbers, Numbers]:
        """Return the source of each row, and its number in that source."""
        starts = np.cumsum([0, *(len(source) for source in self.sources)])
        numbers = np.searchsorted(starts, rows, side="right") - 1
        return numbers, rows - starts[numbers]

    def _id(self, row_id: str, row: int, source: int, repetition: int) -> str:
        named = f"{self.names[source]}:{row_id}" if self.shared[row] else row_id
        return f"{named}#{repetition + 1}" if repetition else named

    def _dropped_rows(self, start: int, stop: int) -> Iterator[Dropped]:
        """Yield excluded rows start..stop: filtered rows first, then unreadable rows."""
        for row, reason, detail in self.left_out[start:stop]:
            (number,), (at,) = (found.tolist() for found in self._places(np.array([row])))
            row_id = self._id(next(iter(self.sources[number].read([at]))).id, row, number, 0)
            yield Dropped(id=row_id, step="build", reason=reason, detail=f"{self.names[number]}: {detail}")
        unread = chain.from_iterable(source.dropped_rows() for source in self.sources)
        first = len(self.left_out)
        yield from islice(unread, max(0, start - first), max(0, stop - first))

"""Rows for the page's browser: a sample inside the page, all rows as script files next to it.

A page opened from disk may not fetch, but it may add script tags. `rows/index.js` has a few columns of all rows.
`rows/00000.js` and so on have the texts of `ROWS_PER_FILE` rows each; the page loads them on demand.
"""

from __future__ import annotations

import base64
import heapq
import math
from array import array
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sicog.report.browser_rows import Facts, Text
from sicog.report.safe import script_json
from sicog.stages.provenance import digest_value
from sicog.stages.storage import write_bytes

FOLDER, INDEX = "rows", "index.js"
ROWS_PER_FILE = 200
Sample = list[tuple[int, Facts, Text]]  # rows with their places among all rows
_NO_CODE = 255  # a column of codes has no value here


class Columns:
    """Facts of rows in columns: texts as indices into a list of names, numbers as raw little-endian arrays."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._names: dict[str, dict[str, int]] = {c: {} for c in ("set", "task", "state", "reason", "style")}
        self._codes = {column: bytearray() for column in self._names}
        self._value, self._truth, self._support = array("f"), array("f"), array("f")
        self._words, self._k, self._truest = array("H"), bytearray(), bytearray()

    def add(self, facts: Facts) -> None:
        """Add one row."""
        self.ids.append(facts.id)
        for column, names in self._names.items():
            name = getattr(facts, column)
            # After 254 names of a column, all other names share the last one.
            code = _NO_CODE if name is None else names.setdefault(name, min(len(names), _NO_CODE - 1))
            self._codes[column].append(code)
        self._value.append(facts.value)
        self._truth.append(facts.truth)
        self._support.append(facts.support)
        self._words.append(min(facts.words, 65535))
        self._k.append(min(facts.k, 255))
        self._truest.append(_NO_CODE if facts.truest is None else int(facts.truest))

    def to_json(self) -> dict[str, Any]:
        """Return the input of page.js: names, ids, and each column in base64."""
        columns: dict[str, bytes | bytearray] = {**self._codes, "k": self._k, "truest": self._truest}
        columns |= {"value": self._value.tobytes(), "truth": self._truth.tobytes(), "words": self._words.tobytes()}
        if not all(map(math.isnan, self._support)):  # useless for rows without claims
            columns["support"] = self._support.tobytes()
        names: dict[str, list[str]] = {}
        for column, codes in self._names.items():
            names[column] = [name for name, _ in sorted(codes.items(), key=lambda item: item[1])][:_NO_CODE]
        coded = {name: base64.b64encode(column).decode() for name, column in columns.items()}
        return {"ids": self.ids, "names": names, "columns": coded}


class Browser:
    """Collects rows one by one, writes their texts, and takes a random sample by the seed.

    With `size` 0 nothing is kept or written.
    """

    def __init__(self, out_dir: Path, size: int, seed: int) -> None:
        self._folder, self._size, self._seed = out_dir / FOLDER, size, seed
        self._columns = Columns()
        self._waiting: list[Text] = []
        self._piles: dict[tuple[str, str], list[tuple[int, int, Facts, Text]]] = {}
        self.files: list[Path] = []

    def add(self, facts: Facts, text: Text) -> None:
        """Add one row; write the file when it is full."""
        if not self._size:
            return
        number = len(self._columns.ids)
        self._columns.add(facts)
        self._waiting.append(text)
        if len(self._waiting) == ROWS_PER_FILE:
            self._write_texts()
        # The smallest hashes of each group are a random sample; keep three times as many, an image is shown once.
        pile = self._piles.setdefault((facts.set, facts.state), [])
        drawn = int(digest_value([self._seed, "example", facts.set, facts.id])[:12], 16)
        entry = (-drawn, number, facts, text)
        if len(pile) < 3 * self._size:
            heapq.heappush(pile, entry)
        elif entry[:2] > pile[0][:2]:
            heapq.heapreplace(pile, entry)

    def finish(self) -> int:
        """Write the remaining rows and the index of all rows; returns their number."""
        if self._waiting:
            self._write_texts()
        rows = len(self._columns.ids)
        if rows:
            self._write(INDEX, b"sicogIndex(", self._columns.to_json())
        return rows

    def sample(self) -> Sample:
        """Return kept and dropped rows of each set in turn, no image twice, with their places among all rows."""
        picked: Sample = []
        images: set[str] = set()
        for turn in zip_longest(*(sorted(pile, key=lambda e: (-e[0], e[1])) for pile in self._piles.values())):
            for entry in turn:
                if entry and len(picked) < self._size and (entry[2].image or entry[2].id) not in images:
                    images.add(entry[2].image or entry[2].id)
                    picked.append(entry[1:])
        return picked

    def _write_texts(self) -> None:
        number = len(self.files)
        self._write(f"{number:05d}.js", f"sicogRows({number},".encode(), self._waiting)
        self._waiting = []

    def _write(self, name: str, call: bytes, value: Any) -> None:
        path = self._folder / name
        write_bytes(path, call + script_json(value) + b");\n")
        self.files.append(path)


def sample_columns(sample: Sample) -> dict[str, Any]:
    """Return the columns of the sample alone, for a page without its other files."""
    columns = Columns()
    for _, facts, _ in sample:
        columns.add(facts)
    return columns.to_json()

"""Stream the raw rows of a JSON list or JSONL file. Both forms give the same values.

A byte order mark, as Windows editors write it, is skipped. Integers larger than 64 bits become texts, because readers
would make them floats.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any

import ijson
import orjson

_BOM = b"\xef\xbb\xbf"
_MANY_DIGITS = re.compile(rb"\d{19}")
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


class JsonRows:
    """The rows of a file: values of a list, or lines as bytes (see `loads`). It may be read any number of times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._careful: bool | None = None  # set when a list is first read

    def __iter__(self) -> Iterator[Any]:
        """Raises `ValueError` with the file if it is missing, or with the last good row if a list is damaged."""
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file")
        with self.path.open("rb") as file:
            begin = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
            file.seek(begin)
            if _is_list(file):
                yield from self._items(file, begin)
                return
            file.seek(begin)
            yield from (line for line in file if line.strip())

    def _items(self, file: IO[bytes], begin: int) -> Iterator[Any]:
        n = 0
        try:
            for item in self._values(file, begin):
                yield item
                n += 1
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.path} is cut off or damaged after row {n}: {error}. The rest of a JSON list cannot be read. "
                f"Repair the file, or write it as JSONL: there only the broken row is dropped"
            ) from error

    def _values(self, file: IO[bytes], begin: int) -> Iterator[Any]:
        if self._careful is None:
            self._careful = _has_lone_surrogate(self.path)
        file.seek(begin)
        if self._careful:
            # The fast reader writes "?" for a lone surrogate. The slow reader keeps it, so the row is refused.
            yield from map(_plain, ijson.get_backend("python").items(file, "item"))
            return
        n = 0
        try:
            for item in ijson.items(file, "item", use_float=True):
                yield item
                n += 1
            return
        except ijson.JSONError as error:
            if "overflow" not in str(error):
                raise
        # A number is too large for the fast reader. From here on all numbers are read as decimals.
        file.seek(begin)
        yield from map(_plain, islice(ijson.items(file, "item"), n, None))


def loads(line: bytes) -> Any:
    """The value of a line of JSON. Raises `orjson.JSONDecodeError`."""
    value = orjson.loads(line)
    # orjson reads integers larger than 64 bits as floats, so different ids would become equal.
    return _plain(json.loads(line)) if _MANY_DIGITS.search(line) else value


def _is_list(file: IO[bytes]) -> bool:
    while chunk := file.read(256):
        if text := chunk.lstrip():
            return text.startswith(b"[")
    return False


def _has_lone_surrogate(path: Path) -> bool:
    """Whether the file contains a lone surrogate."""
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            text = rest + chunk
            if (b"\\ud" in text or b"\\uD" in text) and _LONE_SURROGATE.search(text):
                return True
            rest = chunk[-16:]
    return False


def _plain(value: Any) -> Any:
    """Convert numbers: integers larger than 64 bits to texts, decimals to floats."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, Decimal):
        return number if math.isfinite(number := float(value)) else value  # refused when the row is stored
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value

"""A table in a temporary file: what has to be known of all rows of a stage at once, without holding it in memory."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

_CACHE_KIB = 512  # of the table, and again of what sorts it: all that stays in memory, however many rows there are


class Scratch:
    """A table `rows` of these columns in SQLite's temporary folder (SQLITE_TMPDIR, TMPDIR); it goes with this object.

    `rowid` counts the rows from 1, in the order in which they were given. For one thread at a time.
    """

    def __init__(self, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
        # "" is a file that only this connection knows.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._db.close)
        for pragma in (f"cache_size = -{_CACHE_KIB}", "journal_mode = off", "temp_store = file"):
            self._db.execute(f"pragma {pragma}")
        self.execute(f"create table rows ({columns})")
        self.execute("begin")
        with _temporary_space():
            self._db.executemany(f"insert into rows values ({', '.join('?' * len(columns.split(',')))})", rows)
        self.execute("commit")

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Run a statement of SQL. Raises `ValueError` when the temporary folder has no room for it."""
        with _temporary_space():
            return self._db.execute(statement, values)


@contextmanager
def _temporary_space() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ValueError(
            f"the table of the rows' ids cannot be kept in the temporary folder ({error}); "
            f"let TMPDIR name a folder with more room, some 100 bytes a row"
        ) from error


def id_digest(row_id: str) -> bytes:
    """16 bytes that stand for an id, however long it is."""
    return blake2b(row_id.encode(errors="surrogatepass"), digest_size=16).digest()

"""Cache of answers on disk, by the content of their request, so that no request is paid twice.

One SQLite file in its own folder. A process killed at any moment loses no stored answer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sicog.stages.storage import file_lock


@dataclass(frozen=True)
class Answer:
    """An answer of a model. `refusal`: the endpoint marked it as refused or filtered."""

    text: str
    finish_reason: str
    refusal: bool
    input_tokens: int
    output_tokens: int


_TABLES = """
create table if not exists answers (key text primary key, model text, text text, finish_reason text, refusal integer,
    input_tokens integer, output_tokens integer, estimated_input integer);
create table if not exists lost (model text, input_tokens integer, output_tokens integer);
"""


class AnswerStore:
    """The answers of one folder. Only one process may use it, so that the budget is counted once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def get(self, key: str) -> Answer | None:
        """Return the stored answer to this request, or None."""
        columns = "text, finish_reason, refusal, input_tokens, output_tokens"
        row = self._db.execute(f"select {columns} from answers where key = ?", (key,)).fetchone()
        return Answer(row[0], row[1], bool(row[2]), row[3], row[4]) if row else None

    def put(self, key: str, model: str, answer: Answer, estimated_input: int) -> None:
        """Store an answer durably; it survives a crash of this process."""
        values = (answer.text, answer.finish_reason, answer.refusal, answer.input_tokens, answer.output_tokens)
        row = (key, model, *values, estimated_input)
        with self._db:
            self._db.execute("insert or replace into answers values (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def put_lost(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Count an answer that was probably paid but never arrived."""
        with self._db:
            self._db.execute("insert into lost values (?, ?, ?)", (model, input_tokens, output_tokens))

    def spent(self, model: str) -> tuple[int, int]:
        """Return (input tokens, output tokens) of all answers of this model, including lost ones."""
        both = "select model, input_tokens i, output_tokens o from answers union all select * from lost"
        row = self._db.execute(f"select sum(i), sum(o) from ({both}) where model = ?", (model,)).fetchone()
        return row[0] or 0, row[1] or 0

    def underestimate(self, model: str) -> float:
        """Return the largest ratio of input tokens to their estimate, at least 1."""
        query = "select max(1.0 * input_tokens / max(1, estimated_input)) from answers where model = ?"
        return max(1.0, self._db.execute(query, (model,)).fetchone()[0] or 1.0)

    def mean_output(self, model: str) -> float | None:
        """Return the mean output tokens of an answer; None without answers."""
        found = self._db.execute("select avg(output_tokens) from answers where model = ?", (model,)).fetchone()[0]
        return None if found is None else float(found)

    def count(self, model: str) -> int:
        """Return the number of stored answers of this model."""
        return int(self._db.execute("select count(*) from answers where model = ?", (model,)).fetchone()[0])


@contextmanager
def open_store(folder: Path) -> Iterator[AnswerStore]:
    """Open (and create) the store of a folder. Raises `ValueError` if another process uses it, or it is not a store."""
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock", folder):
        connection = sqlite3.connect(folder / "answers.sqlite")
        try:
            # An exclusive lock needs no shared memory, so this works on network disks too.
            connection.execute("pragma locking_mode = exclusive")
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.executescript(_TABLES)
            yield AnswerStore(connection)
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{folder / 'answers.sqlite'} cannot be used ({error}). Free some space if the disk is full, "
                f"else set another folder for the answers"
            ) from error
        finally:
            connection.close()

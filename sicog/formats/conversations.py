"""Read published files (LLaVA, ShareGPT, ALLaVA, LLaVA-CoT) into our records, and write LLaVA JSON.

Rows stream, so a JSON list is never in memory as a whole. A row that cannot be read becomes `Dropped` with its id and
reason. In a human turn `<image>` marks an image; in an assistant turn it is text. Videos are not supported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple

import orjson
from pydantic import ValidationError

from sicog.config.validation import first_validation_message
from sicog.formats import json_rows
from sicog.formats.row_keys import MARKER as MARKER
from sicog.formats.row_keys import (
    ROW_KEYS,
    Row,
    RowError,
    check_markers,
    image_names,
    other_keys,
    turn_columns,
    turns_of,
)
from sicog.formats.row_keys import caption_of as caption_of
from sicog.formats.row_keys import ensure_marker as ensure_marker
from sicog.formats.row_keys import first_question as first_question
from sicog.formats.row_keys import first_value as first_value
from sicog.records import Dropped, Example, Query, RecordT, Turn
from sicog.stages.scratch import Scratch, id_digest
from sicog.stages.storage import atomic_write
from sicog.tasks import TASKS

_NAMES = {"user": "human", "assistant": "gpt", "system": "system"}


class RawRow(NamedTuple):
    """A row before it is parsed: JSON text or a value. `place` is its number in `file` (from 1) or its key.

    default_id: the id if the row has none; by default its index among all rows.
    """

    value: Any
    file: str
    place: int | str
    default_id: str | None = None

    @property
    def where(self) -> str:
        """The file and place of the row, for messages."""
        return f"{self.file}:{self.place}"


class JsonFile:
    """The raw rows of a .json (list) or .jsonl file. They can be read repeatedly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = json_rows.JsonRows(path)

    def __iter__(self) -> Iterator[RawRow]:
        for place, value in enumerate(self._rows, 1):
            yield RawRow(value, self.path.name, place)


@dataclass
class FileSource(Generic[RecordT]):
    """The rows of a user's file, each turned into a record by `parse(row, id)`.

    raw: the rows of `path` before they are parsed; by default `path` is a .json (list) or .jsonl file. For other kinds
    of files see `sicog.data.rows.users_rows`. A missing id is the row's index. With `unique_ids`, a row with the id of
    an earlier row is dropped.
    """

    path: Path
    parse: Callable[[Row, str], RecordT]
    step: str = "read"
    unique_ids: bool = True
    raw: Iterable[RawRow | Dropped] | None = None
    # Position of the last read: (index of the next row, iterator from there).
    _cursor: tuple[int, Iterator[RawRow | Dropped]] | None = field(default=None, init=False, repr=False, compare=False)

    @cached_property
    def _raw(self) -> Iterable[RawRow | Dropped]:
        return JsonFile(self.path) if self.raw is None else self.raw

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cursor": None}  # an open file stays in its process

    def __len__(self) -> int:
        return self._scan[0]

    def __iter__(self) -> Iterator[RecordT | Dropped]:
        return self.read(0, None)

    def read(self, start: int, stop: int | None) -> Iterator[RecordT | Dropped]:
        """Rows start..stop, in file order. A read that starts at the end of the last one continues it."""
        cursor, self._cursor = self._cursor, None  # reset, so that two readers never share it
        index, rows = cursor if cursor and cursor[0] <= start else (0, iter(self._raw))
        index += sum(1 for _ in islice(rows, start - index))
        for raw in islice(rows, None if stop is None else max(0, stop - index)):
            yield self._record(index, raw)
            index += 1
        if index == stop:
            self._cursor = (index, rows)

    @cached_property
    def _scan(self) -> tuple[int, frozenset[int]]:
        """One pass over the file: the number of rows, and the indices that repeat the id of an earlier row.

        The pass covers the whole file. So a partial read (after a restart, or by another process) drops the same rows.
        """
        if not self.unique_ids:
            return sum(1 for _ in self._raw), frozenset()
        n = 0

        def ids() -> Iterator[tuple[bytes, int]]:
            nonlocal n
            for n, raw in enumerate(self._raw, 1):
                if isinstance(raw, Dropped):
                    continue
                with suppress(RowError):  # such a row is dropped anyway and uses no id
                    yield id_digest(_id_of(_decode(raw.value), n - 1, raw.default_id)), n - 1

        seen = Scratch("id, place", ids())
        numbered = "select place, row_number() over (partition by id order by place) as nth from rows"
        return n, frozenset(place for (place,) in seen.execute(f"select place from ({numbered}) where nth > 1"))

    def _record(self, index: int, raw: RawRow | Dropped) -> RecordT | Dropped:
        if isinstance(raw, Dropped):
            return raw.model_copy(update={"step": self.step})
        repeated = self.unique_ids and index in self._scan[1]
        return parse_row(
            raw.value,
            index,
            self.parse,
            where=raw.where,
            step=self.step,
            default_id=raw.default_id,
            repeated=repeated,
        )


def parse_row(
    raw: Row | bytes,
    index: int,
    parse: Callable[[Row, str], RecordT],
    *,
    where: str,
    step: str = "read",
    default_id: str | None = None,
    repeated: bool = False,
) -> RecordT | Dropped:
    """Parse one row, as JSON text or a value, to a record. A drop holds `where` and the reason.

    A row without an id gets `default_id`, else its index. `repeated`: an earlier row has the same id.
    """
    row_id = default_id or str(index)
    try:
        row = _decode(raw)
        row_id = _id_of(row, index, default_id)
        if repeated:
            raise RowError("duplicate_id", "an earlier row has this id (a row without one has its index, from 0)")
        _check_storable(row)
        return parse(row, row_id)
    except RowError as error:
        return Dropped(id=row_id, step=step, reason=error.reason, detail=f"{where}: {error}")
    except ValidationError as error:
        detail = f"{where}: {first_validation_message(error)}"
        return Dropped(id=row_id, step=step, reason="malformed_row", detail=detail)


def read_llava(path: Path) -> FileSource[Example]:
    """Training rows of a LLaVA or ShareGPT file. Iterating gives `Example | Dropped`."""
    # In published mixtures several rows share the name of an image as id. Training joins nothing by id.
    return FileSource(path, parse_example, unique_ids=False)


def read_queries(path: Path, task: str) -> FileSource[Query]:
    """Unlabelled rows of a LLaVA file: images, and the first human turn as the question."""
    return FileSource(path, QueryParser(task))


def parse_example(row: Row, row_id: str) -> Example:
    """Parse a LLaVA / ShareGPT row to an `Example`. Other keys of the row go to `extra`. Raises `RowError`."""
    images, turns = image_names(row), turns_of(row)
    parsed = _place_images(turns, len(images))
    roles = [t.role for t in parsed if t.role != "system"]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2) or any(t.role == "system" for t in parsed[1:]):
        raise RowError("turn_order", f"turns must alternate human, gpt; got {', '.join(map(_role_name, parsed))}")
    if not any(t.text.split() for t in parsed):
        raise RowError("no_words", "the conversation has no words")
    extra = other_keys(row, *turn_columns(row))
    return Example(id=row_id, images=images, turns=parsed, extra=extra)


def _role_name(turn: Turn) -> str:
    """The name of a turn's role in users' files."""
    return _NAMES[turn.role]


@dataclass(frozen=True)
class QueryParser:
    """Parse a row of a LLaVA file to a `Query` of this task. Raises `RowError`."""

    task: str

    def __call__(self, row: Row, row_id: str) -> Query:
        images, question = image_names(row), first_question(row)
        asks = TASKS[self.task].asks_the_row
        if not asks and not images:
            raise RowError("no_image", f"a row of task {self.task} needs an image")
        if asks and not question:
            raise RowError("no_question", f"a row of task {self.task} needs a human turn with a question")
        if self.task == "text" and images:
            raise RowError(
                "image", "a row of task text must not have an image; sample rows with images with task reasoning"
            )
        extra = other_keys(row, *(["question"] if "question" in turn_columns(row) else []))
        return Query.model_validate(
            {"id": row_id, "task": self.task, "images": images, "question": question, "extra": extra}
        )


def user_turn(pieces: Sequence[str]) -> Turn:
    """A user's turn from the texts before, between and after its images.

    A single image moves to the front. Several images keep their places, and the text starts after leading images.
    """
    if len(pieces) == 1:
        return Turn(role="user", text=pieces[0])
    if len(pieces) == 2:
        return Turn(role="user", text="".join(pieces).strip(), images_at=(0,))
    leading = next((k for k, piece in enumerate(pieces) if piece.strip()), len(pieces) - 1)
    if leading:
        pieces = [""] * leading + [pieces[leading].lstrip(), *pieces[leading + 1 :]]
    offsets = [sum(len(p) for p in pieces[:k]) for k in range(1, len(pieces))]
    return Turn(role="user", text="".join(pieces), images_at=tuple(offsets))


def to_llava(example: Example) -> Row:
    """An `Example` as a LLaVA row with image markers."""
    row: Row = {"id": example.id}
    if example.images:
        row["image"] = example.images[0] if len(example.images) == 1 else list(example.images)
    turns = [{"from": _role_name(t), "value": _with_markers(t)} for t in example.turns]
    return {**row, "conversations": turns, **example.extra}


def reads_back(example: Example) -> bool:
    """Whether the LLaVA row of an example parses to the same example, except for its source.

    It does not if a user's text contains a marker, or if white space is lost.
    """
    users = [turn for turn in example.turns if turn.role == "user"]
    plain = all("<" not in t.text and t.text == t.text.strip() and t.images_at in ((), (0,)) for t in users)
    if plain and not example.extra.keys() & (ROW_KEYS | {"video", "videos"}) and users[0].text:
        return True
    try:
        row = to_llava(example)
        return parse_example(row, str(row["id"])) == example.model_copy(update={"source": ""})
    except RowError:
        return False


def write_llava(path: Path, examples: Iterable[Example]) -> int:
    """Write a LLaVA JSON list, one row a line, streaming; returns the number of rows."""
    n = 0
    with atomic_write(path) as file:
        file.write(b"[\n")
        for n, example in enumerate(examples, 1):
            file.write((b"" if n == 1 else b",\n") + orjson.dumps(to_llava(example)))
        file.write(b"\n]\n")
    return n


def tagged_sections(text: str, tags: Iterable[str]) -> tuple[str, ...]:
    """The stripped contents of `<TAG>..</TAG>` for each tag.

    Raises `RowError` for missing, repeated, nested or empty tags.
    """
    sections, last_end = [], 0
    for tag in tags:
        opened, closed = f"<{tag}>", f"</{tag}>"
        if text.count(opened) != 1 or text.count(closed) != 1:
            raise RowError(
                "tags", f"{opened} and {closed} must each occur once, got {text.count(opened)} and {text.count(closed)}"
            )
        start, end = text.index(opened) + len(opened), text.index(closed)
        if start > end or start < last_end:
            raise RowError("tags", f"{opened} is nested, closed too early, or out of order")
        section = text[start:end].strip()
        if not section:
            raise RowError("tags", f"{opened} is empty")
        if found := re.search(r"</?[A-Z]+>", section):
            raise RowError("tags", f"{found.group()} is inside {opened}")
        sections.append(section)
        last_end = end
    return tuple(sections)


def _decode(raw: Row | bytes) -> Row:
    if isinstance(raw, bytes):
        try:
            raw = json_rows.loads(raw)
        except orjson.JSONDecodeError as error:
            raise RowError("malformed_row", f"not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise RowError("malformed_row", f"expected an object, got {type(raw).__name__}")
    return raw


def _id_of(row: Row, index: int, default_id: str | None) -> str:
    if default_id and row.get("id") is None:
        return default_id
    value = index if row.get("id") is None else row["id"]
    if not isinstance(value, (str, int, float)):
        raise RowError("malformed_id", f"id must be a text or a number, got a {type(value).__name__}")
    try:
        id_ = str(value)
        id_.encode()
    except UnicodeEncodeError:
        raise RowError("malformed_id", f"id contains a lone surrogate: {value!r}") from None
    return id_


def _check_storable(row: Row) -> None:
    """Refuse rows that JSON readers would refuse. Readers allow about 200 levels, and records nest the row."""
    if _storage_error(row):
        named = ((key, _storage_error({key: value})) for key, value in row.items())
        key, reason = next((key, reason) for key, reason in named if reason)
        raise RowError("malformed_row", f"the value of {key!r:.60} cannot be stored as JSON ({reason})")


def _storage_error(row: Row) -> str:
    nested: Any = row
    for _ in range(64):  # orjson writes at most 254 levels
        nested = [nested]
    try:
        orjson.dumps(nested)
    except orjson.JSONEncodeError as error:
        return "a number of it is too large" if "Decimal" in str(error) else str(error)
    return ""


def _place_images(turns: list[tuple[str, str]], n_images: int) -> tuple[Turn, ...]:
    check_markers(sum(text.count(MARKER) for role, text in turns if role == "user"), n_images, "human turns")
    return tuple(
        user_turn(text.split(MARKER)) if role == "user" else Turn.model_validate({"role": role, "text": text})
        for role, text in turns
    )


def _with_markers(turn: Turn) -> str:
    text, shift = turn.text, 0
    front = [a for a in turn.images_at if a == 0]
    for offset in (a for a in turn.images_at if a > 0):
        text = text[: offset + shift] + MARKER + text[offset + shift :]
        shift += len(MARKER)
    return MARKER * len(front) + ("\n" if front else "") + text

"""Users' files as they are published (LLaVA, ShareGPT, ALLaVA, LLaVA-CoT) to our records, and back to LLaVA JSON.

Rows stream: a JSON list is never held whole. A row that cannot be read becomes `Dropped` with its id and reason.
In a human turn `<image>` is the marker of an image; in an assistant turn it is text. Videos are not supported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Generic

import orjson
from pydantic import ValidationError

from sicog import json_rows
from sicog.records import Dropped, Example, Query, RecordT, Turn
from sicog.scratch import Scratch, id_digest
from sicog.storage import atomic_write
from sicog.tasks import TASKS

MARKER = "<image>"
_VIDEO_MARKER = "<video>"
_ROW_KEYS = frozenset({"id", "image", "images", "conversations", "messages"})
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
Row = dict[str, Any]


class RowError(ValueError):
    """A row that cannot be used; `reason` is a snake_case word for the manifest."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass
class FileSource(Generic[RecordT]):
    """The rows of a user's .json (list) or .jsonl file, each turned into a record by `parse(row, id)`.

    A missing id is the row's index. With `unique_ids`, a row whose id an earlier row of the file has is dropped.
    """

    path: Path
    parse: Callable[[Row, str], RecordT]
    step: str = "read"
    unique_ids: bool = True
    # Where the last read ended: (index of the next row, the rows from there).
    _cursor: tuple[int, Iterator[Row | bytes]] | None = field(default=None, init=False, repr=False, compare=False)

    @cached_property
    def _raw(self) -> json_rows.JsonRows:
        return json_rows.JsonRows(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cursor": None}  # an open file stays in its process

    def __len__(self) -> int:
        return self._scan[0]

    def __iter__(self) -> Iterator[RecordT | Dropped]:
        return self.read(0, None)

    def read(self, start: int, stop: int | None) -> Iterator[RecordT | Dropped]:
        """Rows start..stop, in file order. A read that begins where the last one ended does not begin anew."""
        cursor, self._cursor = self._cursor, None  # taken, so that two readers never share one
        index, rows = cursor if cursor and cursor[0] <= start else (0, iter(self._raw))
        index += sum(1 for _ in islice(rows, start - index))
        for raw in islice(rows, None if stop is None else max(0, stop - index)):
            yield self._record(index, raw)
            index += 1
        if index == stop:
            self._cursor = (index, rows)

    @cached_property
    def _scan(self) -> tuple[int, frozenset[int]]:
        """One pass over the file: how many rows there are, and which repeat the id of an earlier row.

        The whole file decides, so a range read alone (after a restart, by another process) drops the same rows.
        """
        if not self.unique_ids:
            return sum(1 for _ in self._raw), frozenset()
        n = 0

        def ids() -> Iterator[tuple[bytes, int]]:
            nonlocal n
            for n, raw in enumerate(self._raw, 1):
                with suppress(RowError):  # such a row is dropped as it is, and takes no id
                    yield id_digest(_row_id(_decode(raw), n - 1)), n - 1

        seen = Scratch("id, place", ids())
        numbered = "select place, row_number() over (partition by id order by place) as nth from rows"
        return n, frozenset(place for (place,) in seen.execute(f"select place from ({numbered}) where nth > 1"))

    def _record(self, index: int, raw: Row | bytes) -> RecordT | Dropped:
        repeated = self.unique_ids and index in self._scan[1]
        return parse_row(
            raw, index, self.parse, where=f"{self.path.name}:{index + 1}", step=self.step, repeated=repeated
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
    """One row, as JSON text or already read, to a record; a drop says `where` it stands and why.

    A row without an id has `default_id`, else its index; `repeated`: an earlier row has the same.
    """
    row_id = default_id or str(index)
    try:
        row = _decode(raw)
        row_id = row_id if default_id and row.get("id") is None else _row_id(row, index)
        if repeated:
            raise RowError("duplicate_id", "an earlier row has this id (a row without one has its index, from 0)")
        _check_depth(row)
        return parse(row, row_id)
    except RowError as error:
        return Dropped(id=row_id, step=step, reason=error.reason, detail=f"{where}: {error}")
    except ValidationError as error:
        detail = f"{where}: {error.errors()[0]['msg']}"
        return Dropped(id=row_id, step=step, reason="malformed_row", detail=detail)


def read_llava(path: Path) -> FileSource[Example]:
    """Training rows of a LLaVA or ShareGPT file. Iterating gives `Example | Dropped`."""
    # Published mixtures name rows after their image, several rows to an id; training joins nothing by id.
    return FileSource(path, parse_example, unique_ids=False)


def read_queries(path: Path, task: str) -> FileSource[Query]:
    """Unlabelled rows of a LLaVA file: images, and the first human turn as the question."""
    return FileSource(path, QueryParser(task))


def parse_example(row: Row, row_id: str) -> Example:
    """A LLaVA / ShareGPT row to an `Example`. Raises `RowError`; other keys of the row are kept in `extra`."""
    images, turns = image_names(row), _turns(row)
    parsed = _place_images(turns, len(images))
    roles = [t.role for t in parsed if t.role != "system"]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2) or any(t.role == "system" for t in parsed[1:]):
        raise RowError("turn_order", f"turns must alternate human, gpt; got {', '.join(t.role for t in parsed)}")
    if not any(t.text.split() for t in parsed):
        raise RowError("no_words", "the conversation holds no word")
    return Example(id=row_id, images=images, turns=parsed, extra=other_keys(row))


@dataclass(frozen=True)
class QueryParser:
    """A row of a LLaVA file to a `Query` of this task. Raises `RowError`."""

    task: str

    def __call__(self, row: Row, row_id: str) -> Query:
        images, question = image_names(row), first_question(row)
        asks = TASKS[self.task].asks_the_row
        if not asks and not images:
            raise RowError("no_image", f"a row of task {self.task} needs an image")
        if asks and not question:
            raise RowError("no_question", f"a row of task {self.task} needs a human turn with a question")
        if self.task == "text" and images:
            raise RowError("image", "a row of task text has no image; sample rows with images as reasoning")
        return Query.model_validate(
            {"id": row_id, "task": self.task, "images": images, "question": question, "extra": other_keys(row)}
        )


def first_question(row: Row) -> str:
    """The first human turn without its image markers, "" when there is none.

    Rows without any marker are published too; a count that is neither that nor the number of images is a `RowError`.
    """
    text = next((text for role, text in _turns(row, required=False) if role == "user"), "")
    _check_markers(text.count(MARKER) or len(image_names(row)), len(image_names(row)), "first human turn")
    return text.replace(MARKER, "").strip()


def other_keys(row: Row, *used: str) -> dict[str, Any]:
    """What a record keeps as `extra`: the keys of the row that no field holds, less those named."""
    return {k: v for k, v in row.items() if k not in _ROW_KEYS and k not in used}


def given(row: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first of these keys that says something, else None.

    A key with null or an empty list is as good as absent: `Dataset.to_json` gives every row every key of all rows.
    """
    return next((row[key] for key in keys if row.get(key) is not None and row[key] != []), None)


def image_names(row: Row) -> tuple[str, ...]:
    """The row's image paths: key `image` or `images`, one string or a list of strings, or none. No videos."""
    if row.get("video") or row.get("videos"):
        raise RowError("video", "the row has a video, which is not supported")
    value = given(row, "image", "images")
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(n, str) and n for n in names):
        raise RowError("malformed_image", f"image must be a path or a list of paths, got {value!r:.100}")
    return tuple(names)


def ensure_marker(row: Row) -> Row:
    """The row with the image marker in its first human turn, where images are given and no turn has a marker."""
    turns = row.get("conversations")
    if not image_names(row) or not isinstance(turns, list):
        return row
    human = [i for i, t in enumerate(turns) if isinstance(t, dict) and _ROLES.get(str(t.get("from"))) == "user"]
    if not human or any(MARKER in str(turns[i].get("value", "")) for i in human):
        return row
    text = turns[human[0]].get("value", "")
    if not isinstance(text, str):
        return row  # the parser refuses it
    first = {**turns[human[0]], "value": MARKER * len(image_names(row)) + "\n" + text}
    return {**row, "conversations": [first if i == human[0] else t for i, t in enumerate(turns)]}


def user_turn(pieces: Sequence[str]) -> Turn:
    """A user's turn from the texts before, between and after its images.

    A single image goes to the front, wherever it stood; several keep their places, and the text begins after leading
    ones.
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
    """An `Example` as a LLaVA row, markers and all."""
    row: Row = {"id": example.id}
    if example.images:
        row["image"] = example.images[0] if len(example.images) == 1 else list(example.images)
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    turns = [{"from": names[t.role], "value": _with_markers(t)} for t in example.turns]
    return {**row, "conversations": turns, **example.extra}


def reads_back(example: Example) -> bool:
    """Whether the LLaVA row of an example is read as the same example, its source aside, which such rows do not have.

    It is not where a user's text holds a marker, or where white space is lost.
    """
    users = [turn for turn in example.turns if turn.role == "user"]
    plain = all("<" not in t.text and t.text == t.text.strip() and t.images_at in ((), (0,)) for t in users)
    if plain and not example.extra.keys() & (_ROW_KEYS | {"video", "videos"}) and users[0].text:
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
    """The stripped contents of `<TAG>..</TAG>` for each tag; a missing, repeated, nested or empty tag: `RowError`."""
    sections, last_end = [], 0
    for tag in tags:
        opened, closed = f"<{tag}>", f"</{tag}>"
        if text.count(opened) != 1 or text.count(closed) != 1:
            raise RowError(
                "tags", f"{opened} and {closed} must each stand once: {text.count(opened)}, {text.count(closed)}"
            )
        start, end = text.index(opened) + len(opened), text.index(closed)
        if start > end or start < last_end:
            raise RowError("tags", f"{opened} is nested, closed before it opens, or out of order")
        section = text[start:end].strip()
        if not section:
            raise RowError("tags", f"{opened} is empty")
        if found := re.search(r"</?[A-Z]+>", section):
            raise RowError("tags", f"{found.group()} stands inside {opened}")
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


def _row_id(row: Row, index: int) -> str:
    value = index if row.get("id") is None else row["id"]
    if not isinstance(value, (str, int, float)):
        raise RowError("malformed_id", f"id must be a text or a number, got a {type(value).__name__}")
    try:
        id_ = str(value)
        id_.encode()
    except UnicodeEncodeError:
        raise RowError("malformed_id", f"id holds half of a surrogate pair: {value!r}") from None
    return id_


def _check_depth(row: Row) -> None:
    """Refuse what JSON readers refuse: they take about 200 levels, and a row is stored within other records."""
    nested: Any = row
    for _ in range(64):  # of the 254 levels that orjson writes
        nested = [nested]
    try:
        orjson.dumps(nested)
    except orjson.JSONEncodeError as error:
        raise RowError("malformed_row", f"cannot be stored as JSON ({error})") from None


def _turns(row: Row, *, required: bool = True) -> list[tuple[str, str]]:
    turns = given(row, "conversations", "messages")
    if not required and turns is None:
        return []
    if not isinstance(turns, list) or not turns:
        raise RowError("no_turns", "the row has no list of turns under 'conversations'")
    found = []
    for number, turn in enumerate(turns, 1):
        role = given(turn, "from", "role") if isinstance(turn, Mapping) else None
        text = given(turn, "value", "content") if isinstance(turn, Mapping) else None
        if not isinstance(role, str) or role not in _ROLES or not isinstance(text, str):
            raise RowError(
                "malformed_turn", f"turn {number} needs from (human or gpt) and value (a text), got {turn!r:.100}"
            )
        if _ROLES[role] == "user" and _VIDEO_MARKER in text:
            raise RowError("video", f"turn {number} holds {_VIDEO_MARKER}, which is not supported")
        found.append((_ROLES[role], text))
    # The published mixtures hold rows that open with a gpt turn; like the original, that turn is left out.
    return found[1:] if found[0][0] == "assistant" else found


def _check_markers(markers: int, n_images: int, where: str) -> None:
    if markers != n_images:
        raise RowError("marker_count", f"{n_images} images but {markers} {MARKER} markers in the {where}")


def _place_images(turns: list[tuple[str, str]], n_images: int) -> tuple[Turn, ...]:
    _check_markers(sum(text.count(MARKER) for role, text in turns if role == "user"), n_images, "human turns")
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

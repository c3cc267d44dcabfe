"""Read preference pairs from published files, and join parts of several sources.

A row may have TRL's form (prompt, chosen, rejected as texts or lists of messages; the prompt may be inside both
answers), LLaVA-RLHF's (conversations, output_1, output_2, preference), or its prompt under `question`. docs/formats.md
has examples and the kinds of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sicog.data.mixture import Source, chosen_rows
from sicog.data.rows.file_kinds import find_files
from sicog.data.rows.users_rows import open_users_rows
from sicog.formats import Row, RowError, ensure_marker, first_value, image_names, parse_example
from sicog.formats.row_keys import ROLES, images_of_parts, is_parts, joined_parts
from sicog.records import Dropped, PreferencePair
from sicog.stages.reader import FolderSource
from sicog.stages.reader import Source as Rows

_PROMPT_KEYS = ("prompt", "question", "conversations", "messages")
_ANSWERS = ("assistant", "gpt", "llm")
Message = dict[str, str]


def parse_pair(row: Row, row_id: str) -> PreferencePair:
    """A user's row as a `PreferencePair`. Raises `RowError`.

    Without a marker in the prompt, its images come first. `<image>` in an answer is text.
    """
    prompt, chosen, rejected = _three_parts(row)
    images = image_names(row) or _images_of_parts(row)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():
            raise RowError("empty_answer", f"{name} has no text")
    if chosen == rejected:
        raise RowError("same_answers", "chosen and rejected are the same text")
    conversation = [*prompt, {"from": "assistant", "value": chosen}]
    example = parse_example(ensure_marker({"images": list(images), "conversations": conversation}), row_id)
    return PreferencePair(id=row_id, images=example.images, prompt=example.turns[:-1], chosen=chosen, rejected=rejected)


class PairSource:
    """The pairs of all sources in order, selected by `take`. Unreadable rows come as `Dropped`.

    `left`: number of usable rows that `take` left out. Memory holds only the numbers of the selected rows.
    """

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        self.left = 0
        self._parts: list[tuple[Rows[PreferencePair], np.ndarray]] = []
        for number, source in enumerate(sources):
            rows = _open(source)
            usable = np.fromiter((isinstance(row, PreferencePair) for row in rows.read(0, len(rows))), dtype=bool)
            n_usable = int(usable.sum())
            chosen, left_out = chosen_rows(source, n_usable, f"{seed}:{number}")
            self.left += left_out
            wanted = np.concatenate([np.flatnonzero(usable)[chosen], np.flatnonzero(~usable)])
            self._parts.append((rows, np.sort(wanted)))

    def __len__(self) -> int:
        return sum(len(wanted) for _, wanted in self._parts)

    def read(self, start: int, stop: int) -> Iterator[PreferencePair | Dropped]:
        """Rows start..stop of all sources, one source after another."""
        for rows, indices in self._parts:
            wanted = indices[max(0, start) : max(0, stop)]
            start, stop = start - len(indices), stop - len(indices)
            if len(wanted):
                first, end = int(wanted[0]), int(wanted[-1]) + 1
                times = np.bincount(wanted - first).tolist()  # a weight repeats rows
                for row, n in zip(rows.read(first, end), times, strict=True):
                    yield from [row] * n


def _open(source: Source) -> Rows[PreferencePair]:
    if find_files(source.path).kind == "dataset":
        return FolderSource(source.path, PreferencePair)
    # Training joins nothing by id, and published files repeat ids.
    return open_users_rows(source.path, parse_pair, unique_ids=False)


def _three_parts(row: Row) -> tuple[list[Message], str, str]:
    """The prompt's messages, the chosen and the rejected text."""
    if first_value(row, "output_1") is not None and first_value(row, "output_2") is not None:
        if row.get("preference") not in (1, 2):
            raise RowError("no_preference", f"preference must be 1 or 2, got {row.get('preference')!r:.100}")
        names = ("output_1", "output_2") if row["preference"] == 1 else ("output_2", "output_1")
    else:
        names = ("chosen", "rejected")
    chosen, rejected = (_messages(row.get(name), name, "assistant") for name in names)
    if chosen[:-1] != rejected[:-1]:
        raise RowError("prompts_differ", f"{names[0]} and {names[1]} must answer the same conversation")
    if chosen[-1]["from"] not in _ANSWERS or rejected[-1]["from"] not in _ANSWERS:
        raise RowError("turn_order", f"{names[0]} and {names[1]} must end with the assistant's turn")
    prompt = next(
        (_messages(row[key], key, "user") for key in _PROMPT_KEYS if first_value(row, key) not in (None, "")), []
    )
    if chosen[:-1] and chosen[0]["from"] not in _ANSWERS:
        prompt = chosen[:-1]  # both answers contain the whole prompt
    elif chosen[:-1]:
        raise RowError("turn_order", f"{names[0]} and {names[1]} must be one turn each, after the same prompt")
    if not prompt or prompt[-1]["from"] in _ANSWERS:
        raise RowError("no_prompt", "the row has no prompt, question or conversations that ends with the user")
    return prompt, chosen[-1]["value"], rejected[-1]["value"]


def _messages(value: Any, name: str, role: str) -> list[Message]:
    """A text as one message of that role, or a list of messages, their contents as texts."""
    items = [value] if isinstance(value, (str, Mapping)) else value
    if not isinstance(items, list) or not items:
        raise RowError("malformed_row", f"{name} must be a text or a list of messages, got {value!r:.100}")
    return [_message(item, name, role) for item in items]


def _message(item: Any, name: str, role: str) -> Message:
    if isinstance(item, str):
        item = {"role": role, "content": item}
    content = first_value(item, "content", "value") if isinstance(item, Mapping) else None
    sender = str(first_value(item, "role", "from") or role) if isinstance(item, Mapping) else role
    if is_parts(content):  # TRL: texts and images
        content = joined_parts(content, "assistant" if sender in _ANSWERS else ROLES.get(sender, sender), name)
    if not isinstance(content, str):
        raise RowError("malformed_turn", f"{name} needs a text where it has {item!r:.100}")
    return {"from": sender, "value": content}


def _images_of_parts(row: Row) -> tuple[str, ...]:
    """The images that the parts of a prompt name, for a row without `image` or `images`."""
    prompt = next((row[key] for key in (*_PROMPT_KEYS, "chosen") if first_value(row, key) not in (None, "")), None)
    messages = prompt if isinstance(prompt, list) else [prompt]
    contents = [first_value(message, "content", "value") for message in messages if isinstance(message, Mapping)]
    return tuple(name for content in contents if is_parts(content) for name in images_of_parts(content))

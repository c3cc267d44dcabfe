"""Adapter from VLMEvalKit's `BaseModel` to our checkpoints, with our prompts, images and batches.

The kit asks one row after another. It passes its data set before (`set_dump_image`), so the next rows are known. They
are answered in one batch, and the kit gets the answers from memory. Only the kit's environment has `vlmeval`; outside
of it, only a test imports this file, with a stand-in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlmeval.vlm.base import BaseModel

from sicog.evaluation.forms import COT_TOKENS, FORMS, Prompt, Style, final_answer

Message = list[dict[str, str]]


class SicogModel(BaseModel):
    """One of our checkpoints as a model of the kit.

    forms: forms of the kit's data sets with our prompts; other data sets use the kit's prompts.
    max_new_tokens: replaces the limits of the forms. answering: arguments of `Answering`.
    """

    INTERLEAVE = True
    is_api = False

    def __init__(
        self,
        checkpoint: str | Path,
        forms: Mapping[str, str],
        *,
        style: Style = "direct",
        batch_size: int = 16,
        max_new_tokens: int | None = None,
        **answering: Any,
    ) -> None:
        from sicog.evaluation.answering import Answering  # lazy, so that a start without questions needs no model

        super().__init__()
        self._answer, self._forms, self._style = Answering(Path(checkpoint), **answering), forms, style
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens
        self._data_set: Any = None
        self._index: Any = None
        self._ahead: dict[tuple[tuple[str, str], ...], str] = {}

    def set_dump_image(self, dump_image_func: Callable[..., Any]) -> None:
        """Remember the data set; the kit calls this before its rows, with one of its methods."""
        super().set_dump_image(dump_image_func)
        self._data_set = getattr(dump_image_func, "__self__", None)
        self._ahead = {}

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """Return true always, so that `build_prompt` sees the next row."""
        return self._data_set is not None

    def build_prompt(self, line: Any, dataset: str | None = None) -> Message:
        """Return the images of a row, then its text."""
        self._index = line["index"]
        return self._message(line, dataset)

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """Return the answer to one message; the following rows are answered in the same batch."""
        key = _key(message)
        if key not in self._ahead:
            messages = {_key(m): m for m in (message, *self._next_messages(dataset))}
            prompts = [self._prompt(m, dataset) for m in messages.values()]
            answers = [final_answer(text, self._style) for text in self._answer(prompts)]
            self._ahead = dict(zip(messages, answers, strict=True))
        return self._ahead[key]

    def _message(self, line: Any, dataset: str | None) -> Message:
        form = self._forms.get(dataset or "")
        if form is None:
            message: Message = self._data_set.build_prompt(line)
            return message
        paths = self.dump_image(line, dataset)
        paths = [paths] if isinstance(paths, str) else paths
        text = FORMS[form].prompt(line, self._style)
        return [*({"type": "image", "value": str(path)} for path in paths), {"type": "text", "value": text}]

    def _next_messages(self, dataset: str | None) -> list[Message]:
        """Return the messages of the next rows of this process, in the kit's distribution of rows."""
        if self._data_set is None or self._batch_size == 1:
            return []
        data, n_processes = self._data_set.data, int(os.environ.get("WORLD_SIZE", 1))
        indices = list(data["index"])
        if self._index not in indices:
            return []
        place = indices.index(self._index)
        ahead = range(place + n_processes, len(indices), n_processes)[: self._batch_size - 1]
        return [self._message(data.iloc[i], dataset) for i in ahead]

    def _prompt(self, message: Message, dataset: str | None) -> Prompt:
        """Join text parts, one per line; each image is placed at the end of the text before it."""
        text, images, places = "", [], []
        for part in message:
            if part["type"] == "image":
                images.append(part["value"])
                places.append(len(text))
            elif part["type"] == "text":
                text += ("\n" if text else "") + part["value"]
            else:
                raise ValueError(
                    f"{dataset}: unknown message part of type {part['type']!r}. Only images and texts are supported"
                )
        form = self._forms.get(dataset or "", "open")
        limit = COT_TOKENS if self._style == "cot" else FORMS[form].max_new_tokens
        return Prompt(tuple(images), text, tuple(places), self._max_new_tokens or limit)


def _key(message: Message) -> tuple[tuple[str, str], ...]:
    return tuple((part["type"], part["value"]) for part in message)

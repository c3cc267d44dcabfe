"""VLMEvalKit's interface to a model, from outside the kit: its `BaseModel` with our prompts, images and batches.

The kit asks one row after another. As it hands over its data set before (`set_dump_image`), the rows that will come
next are known: they are answered in one batch, and the kit gets them from memory.
Only the kit's own environment has `vlmeval`; this file is imported nowhere else, but by a test with a stand-in of it.
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
    """A checkpoint of ours as the kit calls it.

    forms: the form of each of the kit's data sets that are asked in our words; others are asked in the kit's.
    max_new_tokens: instead of the forms' own limits. answering: what `Answering` takes.
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
        from sicog.evaluation.answering import Answering  # here, so that a start without a question needs no model

        super().__init__()
        self._answer, self._forms, self._style = Answering(Path(checkpoint), **answering), forms, style
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens
        self._data_set: Any = None
        self._index: Any = None
        self._ahead: dict[tuple[tuple[str, str], ...], str] = {}

    def set_dump_image(self, dump_image_func: Callable[..., Any]) -> None:
        """Called before the rows of a data set, with a method of it."""
        super().set_dump_image(dump_image_func)
        self._data_set = getattr(dump_image_func, "__self__", None)
        self._ahead = {}

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """Always: so `build_prompt` sees which row is next."""
        return self._data_set is not None

    def build_prompt(self, line: Any, dataset: str | None = None) -> Message:
        """The images of a row, then its text."""
        self._index = line["index"]
        return self._message(line, dataset)

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """The answer to one message; those of the rows behind it are made with it."""
        key = _key(message)
        if key not in self._ahead:
            messages = {_key(m): m for m in (message, *self._coming(dataset))}
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

    def _coming(self, dataset: str | None) -> list[Message]:
        """The messages of the rows that this process is asked next, as the kit deals rows out to processes."""
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
        """Text parts one after another, each on its line; an image stands where the text before it ends."""
        text, images, places = "", [], []
        for part in message:
            if part["type"] == "image":
                images.append(part["value"])
                places.append(len(text))
            elif part["type"] == "text":
                text += ("\n" if text else "") + part["value"]
            else:
                raise ValueError(f"{dataset}: a part of type {part['type']!r}; only images and texts are understood")
        form = self._forms.get(dataset or "", "open")
        limit = COT_TOKENS if self._style == "cot" else FORMS[form].max_new_tokens
        return Prompt(tuple(images), text, tuple(places), self._max_new_tokens or limit)


def _key(message: Message) -> tuple[tuple[str, str], ...]:
    return tuple((part["type"], part["value"]) for part in message)

"""From turns and images to model inputs and back: token ids, labels, patches, batches.

Control tokens and placeholders are written by this file alone. Content is tokenised without any added token, so
nothing a user or a model writes can become one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from sicog.model.configuration import SicogConfig
from sicog.model.image_processing import SicogImageProcessor, joined
from sicog.model.layout import image_tokens
from sicog.model.slicing import Size
from sicog.records import Turn

IGNORED_LABEL = -100
# The image processor's settings: those that are the model's too, and those that it has for itself.
SHARED_WITH_CONFIG = ("scale", "patch_size", "max_slices", "image_mean", "image_std", "image_mode")
IMAGE_SETTINGS = ("normalize_on", "long_side", "max_patches")


@dataclass(frozen=True)
class TurnFormat:
    """How a turn is written: prefix (with `{role}`), content, end token, suffix. The end token also ends an answer.

    default_system: the system turn of a conversation without one; None: it has none. start: opens the conversation.
    """

    name: str
    prefix: str
    end_token: str
    suffix: str
    default_system: str | None
    start: str = ""

    @property
    def controls(self) -> tuple[str, ...]:
        """The control tokens it is made of; a tokenizer must know them all."""
        return tuple(dict.fromkeys([self.end_token, *re.findall(r"<\|\w+\|>", self.start + self.prefix + self.suffix)]))


CHATML = TurnFormat("chatml", "<|im_start|>{role}\n", "<|im_end|>", "\n", "You are a helpful assistant.")
LLAMA3 = TurnFormat(
    "llama3", "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>", "", None, start="<|begin_of_text|>"
)
TURN_FORMATS = {turn_format.name: turn_format for turn_format in (CHATML, LLAMA3)}


@dataclass(frozen=True)
class Encoded:
    """One conversation as model inputs.

    labels: the id where supervised (assistant text and its end token), else -100.
    pixel_values: [patches, 3 * p * p], float32 or uint8 (see `SicogImageProcessor`), None without images.
    view_sizes: int64 [views, 2] (rows, columns) in patches.
    image_grids: int64 [images, 2] (columns, rows) of the slices, (0, 0) for an unsliced image.
    """

    input_ids: list[int]
    labels: list[int]
    pixel_values: np.ndarray | None
    view_sizes: np.ndarray
    image_grids: np.ndarray


class PlainText:
    """The tokenizer's model without its added tokens: whatever the text says, it stays text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer; one with a tokenizer.json is needed")
        self._tokenizer = Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._tokenizer.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._tokenizer.pre_tokenizer = backend.pre_tokenizer

    def __deepcopy__(self, memo: dict[int, Any]) -> PlainText:
        return self  # never changed after it is made, and large: saving a processor copies its attributes

    def encode(self, text: str) -> list[int]:
        """Token ids of the text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids if text else []


class SicogProcessor(ProcessorMixin):
    """Tokenizer, image processor and turn format of one model. Saved and loaded as one folder.

    image_token_id, row_separator_id, slice_separator_id, query_grid: as in the model's config.
    """

    def __init__(
        self,
        image_processor: SicogImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        image_token_id: int,
        row_separator_id: int,
        slice_separator_id: int,
        query_grid: int = 12,
        turn_format: str = CHATML.name,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        if turn_format not in TURN_FORMATS:
            raise ValueError(f"unknown turn_format {turn_format!r}; known: {', '.join(TURN_FORMATS)}")
        self.image_token_id = image_token_id
        self.row_separator_id = row_separator_id
        self.slice_separator_id = slice_separator_id
        self.query_grid = query_grid
        self.turn_format = turn_format
        self._format = TURN_FORMATS[turn_format]
        self._plain = PlainText(tokenizer)
        ids = {token: tokenizer.backend_tokenizer.token_to_id(token) for token in self._format.controls}
        if unknown := [token for token, token_id in ids.items() if token_id is None]:
            raise ValueError(
                f"the tokenizer has no {unknown[0]!r} token, which turn format {turn_format!r} needs; "
                f"use a chat model's tokenizer, add the token, or choose another turn_format: {', '.join(TURN_FORMATS)}"
            )
        self.end_token_id: int = ids[self._format.end_token]

    @classmethod
    def from_config(
        cls, config: SicogConfig, tokenizer: PreTrainedTokenizerBase, *, turn_format: str = CHATML.name, **image: Any
    ) -> SicogProcessor:
        """The processor that agrees with a model's config; `image`: values for `IMAGE_SETTINGS`."""
        assert config.image_token_id is not None and config.image_mode is not None  # the config fills them in
        fields = {name: getattr(config, name) for name in SHARED_WITH_CONFIG}
        image_processor = SicogImageProcessor(**{**fields, **image})
        return cls(
            image_processor,
            tokenizer,
            image_token_id=config.image_token_id,
            row_separator_id=config.row_separator_id,
            slice_separator_id=config.slice_separator_id,
            query_grid=config.query_grid,
            turn_format=turn_format,
        )

    @property
    def pad_token_id(self) -> int:
        """The id rows are padded with: the tokenizer's pad token, else its end token. Padding is always masked."""
        pad = self.tokenizer.pad_token_id
        return int(self.end_token_id if pad is None else pad)

    def encode(
        self,
        turns: Sequence[Turn],
        images: Sequence[Image.Image] = (),
        *,
        slicing: bool = True,
        add_generation_prompt: bool = False,
    ) -> Encoded:
        """A conversation and its images, in the order of the turns' `images_at`.

        The turn format's default system turn, if it has one, is added when there is none. An image at offset 0 is
        followed by a newline; elsewhere it stands at its offset as it is. `slicing=False` shows each image as its
        thumbnail alone.
        Raises `ValueError` when the number of images differs, or an image has a view above `max_patches`.
        """
        prepared = [self.image_processor.prepare(image, slicing=slicing) for image in images]
        ids, labels = self._render(turns, [p.grid for p in prepared], add_generation_prompt)
        sizes = [size for p in prepared for size in p.view_sizes]
        return Encoded(
            input_ids=ids,
            labels=labels,
            pixel_values=joined([p.pixels for p in prepared]) if prepared else None,
            view_sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
            image_grids=np.array([p.grid for p in prepared], dtype=np.int64).reshape(-1, 2),
        )

    def encode_text(
        self,
        turns: Sequence[Turn],
        image_sizes: Sequence[Size] = (),
        *,
        slicing: bool = True,
        add_generation_prompt: bool = False,
    ) -> tuple[list[int], list[int]]:
        """(input_ids, labels) as `encode` gives them, from the images' (width, height) alone. Raises as `encode`."""
        grids = [self.image_processor.plan(w, h, slicing=slicing).grid or (0, 0) for w, h in image_sizes]
        return self._render(turns, grids, add_generation_prompt)

    def collate(
        self, encoded: Sequence[Encoded], *, padding_side: Literal["right", "left"] = "right", with_labels: bool = True
    ) -> dict[str, torch.Tensor]:
        """One batch: padded ids, mask and labels; patches, view sizes and grids concatenated (if any)."""
        if padding_side not in ("right", "left"):
            raise ValueError(f"padding_side is 'right' or 'left', got {padding_side!r}")
        width = max(len(e.input_ids) for e in encoded)

        def pad(rows: Sequence[list[int]], filler: int) -> torch.Tensor:
            batch = torch.full((len(rows), width), filler)
            for i, row in enumerate(rows):
                place = slice(0, len(row)) if padding_side == "right" else slice(width - len(row), width)
                batch[i, place] = torch.tensor(row, dtype=torch.long)
            return batch

        batch = {
            "input_ids": pad([e.input_ids for e in encoded], self.pad_token_id),
            "attention_mask": pad([[1] * len(e.input_ids) for e in encoded], 0),
        }
        if with_labels:
            batch["labels"] = pad([e.labels for e in encoded], IGNORED_LABEL)
        pixels = [e.pixel_values for e in encoded if e.pixel_values is not None]
        if pixels:
            batch["pixel_values"] = torch.from_numpy(joined(pixels))
            batch["view_sizes"] = torch.from_numpy(np.concatenate([e.view_sizes for e in encoded]))
            batch["image_grids"] = torch.from_numpy(np.concatenate([e.image_grids for e in encoded]))
        return batch

    def decode(self, token_ids: Any, **_: Any) -> str:
        """The text of generated ids (one row), without special tokens, stripped."""
        ids = [int(i) for i in token_ids if int(i) != self.image_token_id]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        """`decode` for every row."""
        return [self.decode(row) for row in rows]

    def __call__(
        self, images: Any = None, text: str | Sequence[Turn] = "", *, slicing: bool = True, **_: Any
    ) -> BatchFeature:
        """Inputs for `generate`: a question about one or more images, or a list of turns whose last is the user's."""
        pictures = [] if images is None else [images] if isinstance(images, Image.Image) else list(images)
        turns = [Turn(role="user", text=text, images_at=(0,) * len(pictures))] if isinstance(text, str) else text
        encoded = self.encode(turns, pictures, slicing=slicing, add_generation_prompt=True)
        return BatchFeature(self.collate([encoded], padding_side="left", with_labels=False))

    def _render(
        self, turns: Sequence[Turn], grids: Sequence[tuple[int, int]], add_generation_prompt: bool
    ) -> tuple[list[int], list[int]]:
        if (n := sum(len(t.images_at) for t in turns)) != len(grids):
            raise ValueError(f"the turns hold {n} images but {len(grids)} were given")
        if (default := self._format.default_system) is not None and (not turns or turns[0].role != "system"):
            turns = [Turn(role="system", text=default), *turns]
        ids = list(_tokenise_control(self.tokenizer, self._format.start))
        labels = [IGNORED_LABEL] * len(ids)
        blocks = iter(grids)
        for turn in turns:
            content = self._content(turn, blocks) + [self.end_token_id]
            prefix, suffix = self._control(turn.role), self._suffix()
            ids += [*prefix, *content, *suffix]
            supervised = content if turn.role == "assistant" else [IGNORED_LABEL] * len(content)
            labels += [IGNORED_LABEL] * len(prefix) + supervised + [IGNORED_LABEL] * len(suffix)
        if add_generation_prompt:
            ids += self._control("assistant")
            labels += [IGNORED_LABEL] * len(self._control("assistant"))
        return ids, labels

    def _content(self, turn: Turn, grids: Iterator[tuple[int, int]]) -> list[int]:
        """The ids of a turn's text with its images in place."""
        ids: list[int] = []
        starts = [0, *turn.images_at]
        ends = [*turn.images_at, len(turn.text)]
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            text = turn.text[start:end]
            if k > 0:
                ids += self._image(next(grids))
                text = "\n" + text if start == 0 else text
            ids += self._plain.encode(text)
        return ids

    def _image(self, grid: tuple[int, int]) -> tuple[int, ...]:
        return image_tokens(
            grid,
            self.query_grid,
            image_token_id=self.image_token_id,
            row_separator_id=self.row_separator_id,
            slice_separator_id=self.slice_separator_id,
        )

    def _control(self, role: str) -> tuple[int, ...]:
        return _tokenise_control(self.tokenizer, self._format.prefix.format(role=role))

    def _suffix(self) -> tuple[int, ...]:
        return _tokenise_control(self.tokenizer, self._format.suffix)


@lru_cache(maxsize=256)
def _tokenise_control(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Ids of text that may hold control tokens; only the turn format's own words come here."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


AutoProcessor.register(SicogConfig, SicogProcessor, exist_ok=True)

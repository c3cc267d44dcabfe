"""Convert turns and images to model inputs and back: token ids, labels, patches, batches.

Only this file writes control tokens and placeholders. Content is tokenised without added tokens, so no text of a user
or a model can become one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from sicog.model.configuration import SicogConfig
from sicog.model.encoded import Encoded as Encoded
from sicog.model.image_processing import SicogImageProcessor, concatenated_arrays
from sicog.model.inputs import Text, as_image, check_options, conversations, question
from sicog.model.layout import image_tokens
from sicog.model.messages import as_messages, read_conversations
from sicog.model.plain_text import PlainText as PlainText
from sicog.model.registration import AUTO_MAP, write_classes
from sicog.model.slicing import Size
from sicog.model.turn_formats import CHATML as CHATML
from sicog.model.turn_formats import LLAMA3 as LLAMA3
from sicog.model.turn_formats import TURN_FORMATS as TURN_FORMATS
from sicog.model.turn_formats import Rendered
from sicog.model.turn_formats import TurnFormat as TurnFormat
from sicog.records import Turn

IGNORED_LABEL = -100
# Settings of the image processor: those shared with the model's config, and its own.
SHARED_WITH_CONFIG = ("scale", "patch_size", "max_slices", "image_mean", "image_std", "image_mode")
_OF_TOKENS = {"input_ids", "attention_mask", "assistant_masks"}
IMAGE_SETTINGS = ("normalize_on", "long_side", "max_patches")


class SicogProcessor(ProcessorMixin):
    """Tokenizer, image processor and turn format of one model. Saved and loaded as one folder.

    image_token_id, row_separator_id, slice_separator_id, query_grid: as in the model's config.
    chat_template: the template that Transformers found in the folder; it is ignored, because `turn_format` decides.
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
        super().__init__(image_processor, tokenizer)
        if turn_format not in TURN_FORMATS:
            raise ValueError(f"unknown turn_format {turn_format!r}; known: {', '.join(TURN_FORMATS)}")
        self.image_token_id = image_token_id
        self.row_separator_id = row_separator_id
        self.slice_separator_id = slice_separator_id
        self.query_grid = query_grid
        self.turn_format = turn_format
        self.auto_map = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
        self._format = TURN_FORMATS[turn_format]
        self.chat_template = self._format.chat_template(map(str, tokenizer.get_added_vocab()))
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
        """The processor for a model's config. image: values for `IMAGE_SETTINGS`."""
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

        A conversation without a system turn gets the default one of the turn format, if there is one. An image at
        offset 0 is followed by a newline; at other offsets nothing is added. `slicing=False` uses only thumbnails.
        Raises `ValueError` if the number of images differs, or an image has a view above `max_patches`.
        """
        prepared = [self.image_processor.prepare(image, slicing=slicing) for image in images]
        ids, labels = self._render(turns, [p.grid for p in prepared], add_generation_prompt)
        return Encoded.of(ids, labels, prepared)

    def encode_text(
        self,
        turns: Sequence[Turn],
        image_sizes: Sequence[Size] = (),
        *,
        slicing: bool = True,
        add_generation_prompt: bool = False,
    ) -> tuple[list[int], list[int]]:
        """(input_ids, labels) as in `encode`, computed from the images' (width, height). Raises like `encode`."""
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
            batch["pixel_values"] = torch.from_numpy(concatenated_arrays(pixels))
            batch["view_sizes"] = torch.from_numpy(np.concatenate([e.view_sizes for e in encoded]))
            batch["image_grids"] = torch.from_numpy(np.concatenate([e.image_grids for e in encoded]))
        return batch

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = True) -> str:
        """The text of one row of generated ids, without placeholders; by default stripped, without special tokens."""
        if any(getattr(i, "ndim", 0) or isinstance(i, list | tuple) for i in token_ids):
            raise ValueError("decode takes the ids of one row. Use batch_decode for several rows")
        ids = [int(i) for i in token_ids if int(i) != self.image_token_id]
        text: str = self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text.strip() if skip_special_tokens else text

    def batch_decode(self, rows: Any, *, skip_special_tokens: bool = True) -> list[str]:
        """`decode` for every row."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]

    def __call__(
        self,
        images: Any = None,
        text: Text | Sequence[Text] = "",
        *,
        slicing: bool = True,
        add_special_tokens: bool | None = None,
        **batch: Any,
    ) -> BatchFeature:
        """Inputs for `generate`: one or several questions about images, or lists of turns that end with the user's.

        images: one image or a list; each is a PIL image, a path or an array of uint8 [H, W, 3]. For several texts it is
        a list with one entry for each. `<image>` in a text places an image (see `inputs.question`).
        add_special_tokens: False means that the text is already rendered, may be any part of a conversation, and its
        control tokens are real. The result of `apply_chat_template` is recognised as rendered.
        batch: padding_side (default "left") and the options of `inputs.check_options`. Rows are never truncated.
        Raises `ValueError` for inputs that cannot be read and for unknown arguments.
        """
        encoded = [
            self._encode_one(one, own, slicing, rendered=add_special_tokens is False)
            for one, own in conversations(text, images)
        ]
        return self._pad_batch(encoded, **batch)

    def _pad_batch(
        self,
        encoded: Sequence[Encoded],
        with_mask: bool = False,
        /,
        *,
        padding_side: Literal["right", "left"] = "left",
        **options: Any,
    ) -> BatchFeature:
        """One batch for `generate`. with_mask: add `assistant_masks`, 1 for supervised tokens."""
        check_options([len(e.input_ids) for e in encoded], options)
        batch: dict[str, Any] = {**self.collate(encoded, padding_side=padding_side, with_labels=False)}
        if with_mask:
            labels = self.collate(encoded, padding_side=padding_side)["labels"]
            batch["assistant_masks"] = (labels != IGNORED_LABEL).long()
        if options.get("return_tensors", "pt") != "pt":
            batch |= {name: batch[name].tolist() for name in _OF_TOKENS & batch.keys()}
        return BatchFeature(batch)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Any = None,
        documents: Any = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_assistant_tokens_mask: bool = False,
        return_tensors: str | None = None,
        slicing: bool = True,
        sanitize_control_tokens: bool = True,
        processor_kwargs: dict[str, Any] | None = None,
        **batch: Any,
    ) -> Any:
        """Render messages, or a list of conversations, as text (`Rendered`), or with `tokenize` as inputs.

        With `tokenize`, `encode` encodes the contents directly, so none becomes a control token. In the text they are
        escaped, and `__call__` restores them. A part `{"type": "image", "image": ...}` holds an image in any form that
        `__call__` takes. processor_kwargs, batch: as batch in `__call__`; lists of ids unless return_tensors is "pt".
        return_assistant_tokens_mask: add `assistant_masks`, 1 for supervised tokens.
        Raises `ValueError` for what is not supported: tools, documents, other templates, videos.
        """
        for name, value in {"tools": tools, "documents": documents}.items():
            if value:
                raise ValueError(f"{name}: turn format {self.turn_format!r} does not support them. Remove them")
        if chat_template not in (None, "default", self.chat_template):
            raise ValueError(
                f"chat_template: turn format {self.turn_format!r} decides how turns are written. Remove it"
            )
        if not sanitize_control_tokens:
            raise ValueError("sanitize_control_tokens=False: content never becomes a control token. Remove it")
        if continue_final_message and (add_generation_prompt or continue_final_message is not True):
            raise ValueError(
                "continue_final_message must be True or False, and cannot be combined with add_generation_prompt"
            )
        found, many = read_conversations(conversation)
        if continue_final_message and any(c.turns[-1].role != "assistant" for c in found):
            raise ValueError("continue_final_message needs an assistant message at the end")
        if not tokenize:
            texts = [self._render_text(c.turns, add_generation_prompt, continue_final_message) for c in found]
            return texts if many else texts[0]
        encoded = []
        for one in found:
            if any(image is None for image in one.images):
                raise ValueError('a part of type image has no image. Write {"type": "image", "image": ...}')
            images = [as_image(image) for image in one.images]
            whole = self.encode(one.turns, images, slicing=slicing, add_generation_prompt=add_generation_prompt)
            encoded.append(self._remove_end(whole) if continue_final_message else whole)
        options = {"return_tensors": return_tensors, **(processor_kwargs or {}), **batch}
        if options.pop("add_special_tokens", False):
            raise ValueError("add_special_tokens: a conversation always has its control tokens exactly once. Remove it")
        inputs = self._pad_batch(encoded, return_assistant_tokens_mask, **options)
        return inputs if return_dict else inputs["input_ids"]

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As `ProcessorMixin.save_pretrained`, with the file that imports our classes."""
        write_classes(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Nothing to do: a saved folder refers to the class in this package and holds no copy of its code."""

    def _encode_one(self, text: Text, images: Sequence[Image.Image], slicing: bool, *, rendered: bool) -> Encoded:
        if isinstance(text, Rendered) or (rendered and isinstance(text, str)):
            return self._encode_rendered(text, images, slicing)
        if isinstance(text, str) and text.startswith(self._format.opening_token):
            raise ValueError(
                f"the text begins with {self._format.opening_token!r}, which would stay text here. If it is from "
                f"apply_chat_template, pass add_special_tokens=False, or call that with tokenize=True, "
                f"return_dict=True. If it is the user's text, pass it as a message"
            )
        turns = [question(text, len(images))] if isinstance(text, str) else text
        return self.encode(turns, images, slicing=slicing, add_generation_prompt=True)

    def _encode_rendered(self, text: str, images: Sequence[Image.Image], slicing: bool) -> Encoded:
        """Encode a rendered conversation, or a part of one, with its images in the order of its markers."""
        pieces = list(self._format.read(text))
        if (n := sum(kind == "image" for kind, _ in pieces)) != len(images):
            raise ValueError(f"the rendered text has {n} images, but {len(images)} were given")
        prepared = [self.image_processor.prepare(image, slicing=slicing) for image in images]
        grids = iter([p.grid for p in prepared])
        ids: list[int] = []
        for kind, piece in pieces:
            if kind == "image":
                ids += self._image(next(grids))
            else:
                ids += self._plain.encode(piece) if kind == "content" else _tokenise_control(self.tokenizer, piece)
        return Encoded.of(ids, [IGNORED_LABEL] * len(ids), prepared)

    def _render_text(self, turns: Sequence[Turn], add_generation_prompt: bool, open_end: bool) -> Rendered:
        text: str = self.tokenizer.apply_chat_template(
            as_messages(turns),
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return Rendered(text.removesuffix(self._format.end_token + self._format.suffix) if open_end else text)

    def _remove_end(self, encoded: Encoded) -> Encoded:
        """A conversation without the end of its last turn, for the model to continue it."""
        n = 1 + len(self._suffix())
        return replace(encoded, input_ids=encoded.input_ids[:-n], labels=encoded.labels[:-n])

    def _render(
        self, turns: Sequence[Turn], grids: Sequence[tuple[int, int]], add_generation_prompt: bool
    ) -> tuple[list[int], list[int]]:
        if (n := sum(len(t.images_at) for t in turns)) != len(grids):
            raise ValueError(f"the turns have {n} images, but {len(grids)} were given")
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
    """Ids of text that may contain control tokens. Only texts of the turn format are passed here."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


AutoProcessor.register(SicogConfig, SicogProcessor, exist_ok=True)

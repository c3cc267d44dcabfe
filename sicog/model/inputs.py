"""Check and convert the arguments of a processor call: texts and images of one or several conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sicog.formats import MARKER, user_turn
from sicog.model.image_files import load_image
from sicog.records import Turn

Text = str | Sequence[Turn]
# Options of Transformers' processors, and the values that we support.
_OPTIONS: dict[str, tuple[Any, ...]] = {
    "padding": (True, "longest", False, "do_not_pad", None),
    "truncation": (False, True, "longest_first", "do_not_truncate", None),
    "max_length": (),
    "pad_to_multiple_of": (None,),
    "return_tensors": ("pt", "auto", None),
}
_OWN = ("images", "text", "slicing", "add_special_tokens", "padding_side")
_HOW = "padded to the longest of the batch, never truncated, and returned as torch tensors or lists"
_KINDS = "a PIL image, a path, or an array of uint8 [height, width, 3]"


def as_image(value: Any) -> Image.Image:
    """A PIL image, a path, or an array of uint8 [H, W], [H, W, 3] or [H, W, 4], as an image.

    Raises `ValueError` for other values and lists the valid ones.
    """
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, str) and value.startswith(("http://", "https://", "data:")):
        raise ValueError(f"image {value:.60}: URLs are not downloaded or decoded. Give {_KINDS}")
    if isinstance(value, str | Path):
        return load_image(value)
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8 and (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (3, 4))):
            return Image.fromarray(value)
        raise ValueError(f"an array of {value.dtype} {list(value.shape)} is not an image. Give {_KINDS}")
    if isinstance(value, Mapping) and "role" in value:
        raise ValueError(
            "messages are not supported here. Use apply_chat_template(messages, tokenize=True, return_dict=True)"
        )
    raise ValueError(f"an image must be {_KINDS}; got {type(value).__name__}")


def as_images(value: Any) -> list[Image.Image]:
    """One image or a list of them. None: no image. Raises as `as_image`."""
    if value is None:
        return []
    return [as_image(one) for one in value] if isinstance(value, list | tuple) else [as_image(value)]


def conversations(text: Any, images: Any) -> list[tuple[Text, list[Image.Image]]]:
    """Each text, or list of turns, with its images.

    For several texts, `images` has one entry for each: an image, a list of images, or None. Raises `ValueError` for
    other values, and if the numbers differ.
    """
    if isinstance(text, str) or (_is_turns(text) and text):
        return [(text, as_images(images))]
    if not isinstance(text, list | tuple) or not text:
        raise ValueError(f"text must be a string, a list of turns, or a list of these; got {text!r:.100}")
    for one in text:
        if isinstance(one, Mapping) or (isinstance(one, list | tuple) and any(isinstance(m, Mapping) for m in one)):
            raise ValueError(
                "messages are not supported here. Use apply_chat_template(messages, tokenize=True, return_dict=True)"
            )
        if not isinstance(one, str) and not _is_turns(one):
            raise ValueError(f"text must be a string, a list of turns, or a list of these; it contains {one!r:.100}")
    if images is None:
        return [(one, []) for one in text]
    if not isinstance(images, list | tuple) or len(images) != len(text):
        n = len(images) if isinstance(images, list | tuple) else "one"
        raise ValueError(f"{len(text)} texts need images of {len(text)} entries, a list for each text; got {n}")
    return [(one, as_images(own)) for one, own in zip(text, images, strict=True)]


def question(text: str, n_images: int) -> Turn:
    """A user's turn of this text and its images.

    Without markers the images come first. With one marker for each image they are placed as in training rows: a single
    image in front, several at their markers. Raises `ValueError` for another number of markers. Without images a marker
    is text.
    """
    n_markers = text.count(MARKER) if n_images else 0
    if not n_markers:
        return Turn(role="user", text=text, images_at=(0,) * n_images)
    if n_markers != n_images:
        raise ValueError(
            f"the text has {n_markers} {MARKER} for {n_images} images; write one for each image, or none and the "
            f"images come first. To ask about the word itself, give turns or messages"
        )
    return user_turn(text.split(MARKER))


def check_options(lengths: Sequence[int], options: Mapping[str, Any]) -> None:
    """Raise `ValueError` for an unknown or unsupported batch option.

    Rows are padded to the longest (`padding=True`) and never truncated: with `max_length` a longer row is refused.
    return_tensors: "pt", or None for lists of ids. lengths: the lengths of the rows in tokens.
    """
    if unknown := sorted(options.keys() - _OPTIONS.keys()):
        raise ValueError(f"unknown argument {unknown[0]!r}; known: {', '.join((*_OWN, *_OPTIONS))}")
    for name, values in _OPTIONS.items():
        if values and options.get(name, values[0]) not in values:
            raise ValueError(
                f"{name}={options[name]!r}: rows are {_HOW}; {name} must be {' or '.join(map(repr, values))}"
            )
    if options.get("padding") in (False, "do_not_pad") and len(set(lengths)) > 1:
        raise ValueError(
            f"padding={options['padding']!r} with rows of {min(lengths)} to {max(lengths)} tokens. Set padding=True"
        )
    limit = options.get("max_length")
    if options.get("truncation") in (True, "longest_first") and limit is None:
        raise ValueError("truncation without max_length: give max_length to refuse longer rows; rows are never cut")
    for number, length in enumerate(lengths):
        if limit is not None and length > limit:
            raise ValueError(
                f"row {number} has {length} tokens, more than max_length {limit}. Rows are never truncated, as that "
                f"could cut an image or an answer. Raise max_length, or remove the row"
            )


def _is_turns(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(turn, Turn) for turn in value)

"""Contexts of images: texts that the model reads before the prompt, such as captions kept by curation."""

from __future__ import annotations

from pathlib import Path

from sicog.chains import ChainError
from sicog.config import Config
from sicog.records import Example
from sicog.stages.storage import read_records
from sicog.tasks import TASKS


class ContextConfig(Config):
    """Texts about the images that the model reads before each prompt. Candidates store only the prompt, so a student
    learns to answer without them (context distillation, Snell et al. 2022, arXiv 2209.15189)."""

    path: Path
    """A dataset of `Example`. The last answer of the first row of an image, without the steps of a chain, is its
    context. Images without one are asked about without context."""
    show_images: bool = True
    """Whether the model also sees the image of a row that has a context."""


def read_contexts(path: Path) -> dict[str, str]:
    """The context of each image, by the name of a row's first image. Raises `ValueError` for a broken chain."""
    found: dict[str, str] = {}
    for row in read_records(path, Example):
        if row.images and row.images[0] not in found:
            found[row.images[0]] = _plain(row, path)
    return found


def _plain(row: Example, path: Path) -> str:
    text, task, style = row.turns[-1].text, TASKS.get(row.source), row.origin.style or ""
    try:
        return task.compared(text, style) if task is not None and style in task.styles else text
    except ChainError as error:
        raise ValueError(
            f"context: row {row.id} of {path} is not a complete chain of style {style!r}: {error}"
        ) from None

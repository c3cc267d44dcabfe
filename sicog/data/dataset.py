"""Training rows: lengths known before the model runs, unusable rows dropped with their reason, never cut."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sicog.data.images import ImageProblem, resolve_image
from sicog.data.lengths import RowLengths
from sicog.model.image_processing import image_size, load_image
from sicog.records import Dropped, Example

if TYPE_CHECKING:
    from sicog.model.processing import Encoded, SicogProcessor

STEP = "train"
IGNORED = -100
Size = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """An example that can be trained on: its image files, and what `RowLengths` holds of it."""

    example: Example
    images: tuple[Path, ...]
    n_tokens: int
    n_supervised: int
    n_views: int
    n_patches: int


@dataclass(frozen=True)
class ImageFolder:
    """Where images lie, and whether they are fully decoded once before training (`decode`) or only their header."""

    folder: Path | None
    roots: tuple[Path, ...] = ()
    check: str = "decode"

    def find(self, name: str) -> tuple[Path, Size] | ImageProblem:
        """The file of an image and its size as seen, or what is wrong with it."""
        if self.folder is None:
            return ImageProblem("image_missing", f"{name!r}: rows have images but no data.image_folder is set")
        try:
            path = resolve_image(self.folder, name, self.roots)
        except ImageProblem as problem:
            return problem
        try:
            return path, image_size(path) if self.check == "header" else load_image(path).size
        except ValueError as error:
            return ImageProblem("image_broken", str(error))


def measure_rows(
    examples: Sequence[Example], processor: SicogProcessor, images: ImageFolder, *, max_length: int, slicing: bool
) -> tuple[list[Row], list[Dropped]]:
    """Split examples into rows to train on and drops.

    Reasons: `image_refused`, `image_missing`, `image_broken`, `unusable` (the processor refuses it), `too_long`,
    `nothing_supervised`.
    """
    names = sorted({name for example in examples for name in example.images})
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        found = dict(zip(names, _shown(pool.map(images.find, names), len(names), "checking images"), strict=True))
    rows: list[Row] = []
    dropped: list[Dropped] = []
    for example in _shown(examples, len(examples), "measuring rows"):
        row = _measure(example, [found[name] for name in example.images], processor, max_length, slicing)
        if isinstance(row, Row):
            rows.append(row)
        else:
            dropped.append(row)
    return rows, dropped


def row_lengths(rows: Sequence[Row]) -> RowLengths:
    """The lengths of all rows."""
    fields = ("n_tokens", "n_supervised", "n_views", "n_patches")
    return RowLengths(*(np.array([getattr(row, name) for row in rows], dtype=np.int32) for name in fields))


class ExampleDataset:
    """Map-style dataset of encoded rows: `dataset[i]` is `(id, Encoded)`."""

    def __init__(self, rows: Sequence[Row], processor: SicogProcessor, *, slicing: bool) -> None:
        self.rows = rows
        self.processor = processor
        self.slicing = slicing

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str, Encoded]:
        row = self.rows[index]
        try:
            images = [load_image(path) for path in row.images]
            return row.example.id, self.processor.encode(row.example.turns, images, slicing=self.slicing)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"row {row.example.id} could be read before training and cannot now: {error}. Was the image changed? "
                f"Mend or remove it and run again; training goes on from its last checkpoint"
            ) from error


def _measure(
    example: Example,
    found: Sequence[tuple[Path, Size] | ImageProblem],
    processor: SicogProcessor,
    max_length: int,
    slicing: bool,
) -> Row | Dropped:
    paths, sizes = [], []
    for image in found:
        if isinstance(image, ImageProblem):
            return Dropped(id=example.id, step=STEP, reason=image.reason, detail=str(image))
        paths.append(image[0])
        sizes.append(image[1])
    try:
        ids, labels = processor.encode_text(example.turns, sizes, slicing=slicing)
        images = processor.image_processor
        views = [view for w, h in sizes for view in images.plan(w, h, slicing=slicing).views(images.patch_size)]
    except ValueError as error:
        return Dropped(id=example.id, step=STEP, reason="unusable", detail=str(error))
    if len(ids) > max_length:
        return Dropped(id=example.id, step=STEP, reason="too_long", detail=f"{len(ids)} tokens > {max_length}")
    # The first position is never a target: nothing stands before it that could predict it.
    supervised = sum(label != IGNORED for label in labels[1:])
    if not supervised:
        return Dropped(id=example.id, step=STEP, reason="nothing_supervised", detail="no assistant text")
    return Row(example, tuple(paths), len(ids), supervised, len(views), sum(rows * columns for rows, columns in views))


def _shown(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items, with a progress bar where a person is watching."""
    with Progress(
        TextColumn(f"  {what}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty() or not total,
    ) as bar:
        yield from bar.track(items, total=total)

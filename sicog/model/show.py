"""`sicog show-image`: draw the slices, the thumbnail and the token order of an image, with numbers."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from sicog.model.image_processing import SicogImageProcessor, load_image
from sicog.model.layout import count_tokens
from sicog.model.slicing import Size, SlicePlan
from sicog.model.square import padded_square

_SLICES_BOX = (480, 360)  # pixels; the slices are scaled down to it
_CELL, _GAP, _MARGIN, _LINE = 6, 6, 16, 18
_INK, _PAPER, _SEPARATOR, _THUMBNAIL = "#222222", "#ffffff", "#222222", "#9a9a9a"


def show_image(
    file: Path, out: Path, *, checkpoint: Path | None = None, query_grid: int = 12, **settings: Any
) -> list[str]:
    """Draw the image to `out` (PNG) and return the lines with its numbers.

    checkpoint: a folder whose processor is used; else `settings` are those of `SicogImageProcessor`.
    Raises `ValueError` for a broken image, a view above `max_patches`, a folder without a processor, or another suffix
    of `out` than .png.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"{out} must end in .png")
    processor = SicogImageProcessor(**{k: v for k, v in settings.items() if v is not None})
    if checkpoint is not None:
        from sicog.model.checkpoints import read_processor

        whole = read_processor(str(checkpoint))
        processor, query_grid = whole.image_processor, whole.query_grid
    image = load_image(file)
    lines = [f"{file.name}: {_size(image.size)} pixels", *describe(image.size, processor, query_grid)]
    out.parent.mkdir(parents=True, exist_ok=True)
    # Few colours keep the file small, and a drawing needs no more.
    draw(image, lines, processor, query_grid).quantize(96, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return lines


def describe(size: Size, processor: SicogImageProcessor, query_grid: int) -> list[str]:
    """Slices, patches and tokens of an image of `size`, line by line."""
    plan, g = processor.plan(*size), query_grid
    total = count_tokens(plan.grid, g)
    thumbnail = f"thumbnail: {_size(plan.thumbnail_size)} pixels, {_patches(plan.thumbnail_size, processor)} patches"
    if plan.grid is None or plan.slice_size is None:
        return [thumbnail, f"tokens: the thumbnail's {g} x {g} = {total}"]
    columns, rows = plan.grid
    return [
        f"grid: {columns} columns x {rows} rows, {plan.n_slices} slices of {_size(plan.slice_size)} pixels, "
        f"{_patches(plan.slice_size, processor)} patches each",
        thumbnail,
        f"tokens: {g * rows} rows of {g * columns} features and a separator = {g * rows * (g * columns + 1)}, "
        f"one separator, the thumbnail's {g} x {g} = {g * g}: {total}",
    ]


def draw(image: Image.Image, lines: list[str], processor: SicogImageProcessor, query_grid: int) -> Image.Image:
    """The picture: the views above, the tokens below, then the lines."""
    plan = processor.plan(*image.size)
    if processor.image_mode == "square":
        image = padded_square(image, processor.scale, processor.image_mean)
    views, tokens = _views(image, plan), _tokens(plan, query_grid)
    font = ImageFont.load_default(13)
    text_width = max(int(font.getlength(line)) for line in lines)
    width = max(views.width, tokens.width, text_width) + 2 * _MARGIN
    height = views.height + tokens.height + (len(lines) + 2) * _LINE + 4 * _MARGIN
    page = Image.new("RGB", (width, height), _PAPER)
    pen, y = ImageDraw.Draw(page), _MARGIN
    for title, part in (("slices, then the thumbnail", views), ("tokens in order, row by row", tokens)):
        pen.text((_MARGIN, y), title if plan.grid else title.split(", ")[-1], fill=_INK, font=font)
        page.paste(part, (_MARGIN, y + _LINE))
        y += _LINE + part.height + _MARGIN
    for line in lines:
        pen.text((_MARGIN, y), line, fill=_INK, font=font)
        y += _LINE
    return page


def _views(image: Image.Image, plan: SlicePlan) -> Image.Image:
    """The slices in their grid with gaps, the thumbnail to their right, all at one scale."""
    whole = plan.resized_size or plan.thumbnail_size
    factor = min(_SLICES_BOX[0] / whole[0], _SLICES_BOX[1] / whole[1], 1.0)
    thumbnail = image.resize(_scale(plan.thumbnail_size, factor))
    if plan.grid is None or plan.slice_size is None:
        return thumbnail
    (columns, rows), (w, h) = plan.grid, _scale(plan.slice_size, factor)
    slices = image.resize((columns * w, rows * h))
    left = columns * (w + _GAP) + 2 * _GAP
    canvas = Image.new("RGB", (left + thumbnail.width, max(rows * (h + _GAP), thumbnail.height)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for k in range(plan.n_slices):
        row, column = divmod(k, columns)
        x, y = column * (w + _GAP), row * (h + _GAP)
        canvas.paste(slices.crop((column * w, row * h, (column + 1) * w, (row + 1) * h)), (x, y))
        pen.rectangle((x, y, x + w - 1, y + h - 1), outline=_colour(k, plan.n_slices), width=3)
    canvas.paste(thumbnail, (left, 0))
    pen.rectangle((left, 0, left + thumbnail.width - 1, thumbnail.height - 1), outline=_THUMBNAIL, width=3)
    return canvas


def _tokens(plan: SlicePlan, g: int) -> Image.Image:
    """One cell per token: rows of slice features, each closed by a separator; one separator; the thumbnail."""
    columns, rows = plan.grid or (0, 0)
    left = (g * columns + 2) * _CELL if plan.grid else 0
    canvas = Image.new("RGB", (left + (g + 1) * _CELL, max(g * rows, g) * _CELL), _PAPER)
    pen = ImageDraw.Draw(canvas)

    def cell(x: int, y: int, colour: str) -> None:
        pen.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=colour)

    for y in range(g * rows):
        for x in range(g * columns):
            cell(x * _CELL, y * _CELL, _colour((y // g) * columns + x // g, columns * rows))
        cell(g * columns * _CELL, y * _CELL, _SEPARATOR)
    bottom = max(g * rows, g) - g
    if plan.grid:
        cell(left - _CELL // 2, bottom * _CELL, _SEPARATOR)
    for k in range(g * g):
        cell(left + (k % g + 1) * _CELL, (bottom + k // g) * _CELL, _THUMBNAIL)
    return canvas


def _colour(k: int, n: int) -> str:
    red, green, blue = (int(255 * c) for c in colorsys.hsv_to_rgb(k / n, 0.65, 0.85))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _scale(size: Size, factor: float) -> Size:
    return max(int(size[0] * factor), 1), max(int(size[1] * factor), 1)


def _size(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _patches(size: Size, processor: SicogImageProcessor) -> str:
    return _size((size[0] // processor.patch_size, size[1] // processor.patch_size))

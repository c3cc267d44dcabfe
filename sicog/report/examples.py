"""Rows to look at: images with all their candidates, kept and dropped, captions and questions, drawn by the seed."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from sicog.data.images import ImageProblem, resolve_image
from sicog.provenance import digest_value
from sicog.records import ScoredCandidate, ScoredSet
from sicog.report.curated import Curated, chosen_of
from sicog.report.truth import Truth
from sicog.storage import read_records

SIDE = 320  # pixels; a larger image is scaled down to it
PNG_BELOW = 1 << 16  # bytes; a larger picture is stored as JPEG
# What Pillow raises on broken files, as in model/image_processing.py.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)
# Said without the path: a page that is passed on names no folders of this machine.
_NO_PICTURE = {
    "image_missing": "the file is missing",
    "image_refused": "its name or link leads to no file within the image folder",
    "image_damaged": "the file is damaged or is no image",
}


def choose(tasks: Sequence[Curated], number: int, seed: int) -> list[tuple[Curated, ScoredSet]]:
    """Rows in turn from each task's kept and dropped ones, no image twice, as many as asked for or as there are."""
    piles = []
    for task in tasks:
        drawn = sorted(task.sets, key=lambda s: digest_value([seed, "example", s.id]))
        piles += [[(task, s) for s in drawn if s.kept is kept] for kept in (True, False)]
    picked: list[tuple[Curated, str]] = []
    images: set[str] = set()
    for turn in zip_longest(*piles):
        for entry in turn:
            if entry and len(picked) < number and entry[1].image not in images:
                images.add(entry[1].image)
                picked.append((entry[0], entry[1].id))
    return _with_texts(picked)


def _with_texts(picked: Sequence[tuple[Curated, str]]) -> list[tuple[Curated, ScoredSet]]:
    """The picked rows themselves, read again: the first reading kept no texts."""
    rows: dict[tuple[int, str], ScoredSet] = {}
    for task in {id(task): task for task, _ in picked}.values():
        wanted = {row_id for other, row_id in picked if other is task}
        for row in read_records(task.config.scored, ScoredSet):
            if row.id in wanted:
                rows[id(task), row.id] = row
    return [(task, rows[id(task), row_id]) for task, row_id in picked]


def cards(
    chosen: Sequence[tuple[Curated, ScoredSet]], truth: Truth | None, folder: Path | None
) -> list[dict[str, Any]]:
    """What the page shows of each row; `picture` is a data URL, or None without an image folder.

    A picture that cannot be shown is None too, and `no_picture` says why.
    """
    return [_card(task, row, truth, folder) for task, row in chosen]


def _card(task: Curated, row: ScoredSet, truth: Truth | None, folder: Path | None) -> dict[str, Any]:
    winner = chosen_of(row, task.rule, task.chosen)
    image = row.query.images[0] if row.query.images else None
    kept = row.id in task.chosen
    picture, no_picture = None, None
    if folder and image:
        try:
            picture = data_url(folder, image)
        except ImageProblem as problem:  # one picture is no reason to lose the page
            no_picture = _NO_PICTURE.get(problem.reason, problem.reason.replace("_", " "))
    return {
        "id": row.id,
        "task": row.query.task,
        "question": row.query.question,
        "image": image,
        "kept": kept,
        "dropped_because": None if kept else task.drops.get(row.id, "not selected"),
        "truth": truth.words(row.query) if truth else None,
        "candidates": [_candidate(row, c, c is winner, truth) for c in row.candidates],
        "picture": picture,
        "no_picture": no_picture,
    }


def _candidate(row: ScoredSet, scored: ScoredCandidate, best: bool, truth: Truth | None) -> dict[str, Any]:
    compared = scored.compared
    return {
        "style": scored.candidate.style,
        "text": scored.candidate.text,
        "compared": compared,
        "excluded": scored.excluded,
        "score": scored.score,
        "vote": scored.vote,
        "best": best,
        "truth": truth.of(row.query, compared) if truth and compared is not None else None,
    }


def data_url(folder: Path, name: str) -> str:
    """The image, at most `SIDE` pixels a side, as a data URL. Raises `ImageProblem` when it cannot be shown."""
    path = resolve_image(folder, name)
    try:
        with Image.open(path) as opened:
            opened.load()
            picture = _upright(opened)
    except (*_DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise ImageProblem("image_damaged", f"{path} cannot be shown ({error})") from error
    picture.thumbnail((SIDE, SIDE))
    data, kind = _encoded(picture, "PNG", optimize=True), "png"
    if len(data) > PNG_BELOW:
        data, kind = _encoded(picture, "JPEG", quality=85), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _upright(image: Image.Image) -> Image.Image:
    """Upright and in RGB, as the model saw it; its own loader needs Transformers, which a report does without."""
    with suppress(*_DECODE_ERRORS):  # damaged metadata: the picture stays as stored, as for the model
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        top: Any = image.getextrema()[1]
        factor = 255.0 if top <= 1 else 1.0 if top <= 255 else 255.0 / 65535.0
        return image.convert("F").point(lambda level: level * factor + 0.0).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()

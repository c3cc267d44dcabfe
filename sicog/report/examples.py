"""Rows to look at: images with all their candidates, kept and dropped, captions and questions, drawn by the seed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from sicog.data.images import resolve_image
from sicog.provenance import digest_value
from sicog.records import ScoredCandidate, ScoredSet
from sicog.report.curated import Curated, chosen_of
from sicog.report.truth import Truth
from sicog.storage import read_records

SIDE = 320  # pixels; a larger image is scaled down to it
PNG_BELOW = 1 << 16  # bytes; a larger picture is stored as JPEG


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
    """What the page shows of each row; `picture` is a data URL, or None without an image folder."""
    return [_card(task, row, truth, folder) for task, row in chosen]


def _card(task: Curated, row: ScoredSet, truth: Truth | None, folder: Path | None) -> dict[str, Any]:
    winner = chosen_of(row, task.rule, task.chosen)
    image = row.query.images[0] if row.query.images else None
    kept = row.id in task.chosen
    return {
        "id": row.id,
        "task": row.query.task,
        "question": row.query.question,
        "image": image,
        "kept": kept,
        "dropped_because": None if kept else task.drops.get(row.id, "not selected"),
        "truth": truth.words(row.query) if truth else None,
        "candidates": [_candidate(row, c, c is winner, truth) for c in row.candidates],
        "picture": data_url(folder, image, row.id) if folder and image else None,
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


def data_url(folder: Path, name: str, row_id: str) -> str:
    """The image, at most `SIDE` pixels a side, as a data URL. Raises `ValueError` naming row and file."""
    try:
        with Image.open(resolve_image(folder, name)) as opened:
            picture = opened.convert("RGB")
    except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"example row {row_id}: its image cannot be shown ({error}); check image_folder") from error
    picture.thumbnail((SIDE, SIDE))
    data, kind = _encoded(picture, "PNG", optimize=True), "png"
    if len(data) > PNG_BELOW:
        data, kind = _encoded(picture, "JPEG", quality=85), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()

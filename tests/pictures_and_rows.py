"""Pictures, rows and benchmark files for the tests of building a set."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from sicog.records import Example, Turn

_WORDS = [f"thing{i}" for i in range(2000)]


def picture(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A smooth picture like no other."""
    cells = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def words(seed: int, n: int = 60) -> str:
    """A text like no other."""
    return " ".join(np.random.default_rng(seed).choice(_WORDS, n))


def row(row_id: str, image: str | None, asked: str, answer: str, score: float | None = None, **extra) -> Example:
    """A question and an answer, with an image or without."""
    images = (image,) if image else ()
    given = extra if score is None else {"score": score, **extra}
    turns = (Turn(role="user", text=asked, images_at=(0,) * len(images)), Turn(role="assistant", text=answer))
    return Example(id=row_id, images=images, turns=turns, extra=given)


def as_base64(image: Image.Image, kind: str = "JPEG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def write_tsv(path: Path, rows: list[dict[str, object]]) -> Path:
    """A benchmark as VLMEvalKit writes them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, names, delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    return path

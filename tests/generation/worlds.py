"""A small folder of images of different sizes, and rows about them, for the tests of generation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(60, 60), (200, 100), (100, 300), (64, 48), (300, 300), (57, 56), (20, 90)]


def picture(number: int) -> Image.Image:
    """A blurry picture of its own content and one of seven sizes."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return small.resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC)


def write_world(folder: Path, n: int = 7, *, questions: bool = False) -> Path:
    """`n` PNG files and `rows.json` about them, in LLaVA format; returns the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(n):
        picture(i).save(folder / f"{i}.png")
        row: dict = {"id": f"row-{i}", "image": f"{i}.png"}
        if questions:
            row["conversations"] = [{"from": "human", "value": f"<image>\nHow many red objects are there, or {i}?"}]
        rows.append(row)
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return path

"""`sicog show-corruptions`: draw one image under each corruption in a PNG, with the sampled parameters."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw
from rich.console import Console

from sicog.console import stdout_console
from sicog.generation.corruption import METHODS, apply, draw_corruption
from sicog.records import Corruption

_SIDE, _MARGIN, _LINE = 320, 12, 14  # pixels


def show_corruptions(file: Path, out: Path, *, seed: int = 0, console: Console | None = None) -> list[Corruption]:
    """Draw the sheet and return the corruptions. Raises `ValueError` for an image that cannot be read."""
    from sicog.model.image_processing import load_image

    if out.suffix.lower() != ".png":
        raise ValueError(f"{out} must end in .png")
    image = load_image(file).convert("RGB")
    # Each method is its own pool, so the parameters are those of a run with this seed.
    done = [draw_corruption([name], seed, file.name) for name in METHODS]
    tiles = [("as it is", image), *((_words(c), apply(image, c)) for c in done)]
    sheet = Image.new("RGB", (len(tiles) * (_SIDE + _MARGIN) + _MARGIN, _SIDE + 7 * _LINE + 2 * _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (words, tile) in enumerate(tiles):
        left = _MARGIN + number * (_SIDE + _MARGIN)
        tile.thumbnail((_SIDE, _SIDE))
        sheet.paste(tile, (left, _MARGIN))
        pen.multiline_text((left, _SIDE + 2 * _MARGIN), words, fill="black")
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    for corruption in done:
        (console or stdout_console()).print(_words(corruption).replace("\n", "  "))
    return done


def _words(corruption: Corruption) -> str:
    values = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in corruption.parameters.items())
    return "\n".join([corruption.method, *values])

"""Draw a scene of the mini world as an RGB image: anti-aliased shapes on a lightly textured pale background."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from sicog.mini.scene import Scene, digest

RGB = {
    "red": (216, 30, 40),
    "orange": (247, 140, 20),
    "yellow": (238, 216, 24),
    "green": (28, 150, 56),
    "cyan": (28, 200, 214),
    "blue": (36, 72, 214),
    "purple": (150, 46, 180),
    "black": (26, 26, 30),
}
BACKGROUND_RGB = {
    "white": (246, 246, 246),
    "gray": (204, 204, 206),
    "beige": (236, 222, 194),
    "pale blue": (204, 220, 242),
    "pale green": (208, 234, 208),
    "pale pink": (246, 214, 220),
}
SUPERSAMPLE = 4
GRAIN = 8  # pixels between nodes of the background texture
TEXTURE = 8  # amplitude in levels, in both directions
JITTER = 10  # maximum deviation of a thing's colour per channel


def render_scene(scene: Scene) -> Image.Image:
    """Render the scene as an RGB image of (scene.width, scene.height); the scene's content seeds texture and tints."""
    rng = np.random.default_rng(digest("render", scene.id, scene.things))
    image = _background(scene, rng)
    for thing in scene.things:
        side = thing.box[2] - thing.box[0]
        tint = np.clip(np.array(RGB[thing.colour]) + rng.integers(-JITTER, JITTER + 1, 3), 0, 255)
        image.paste(tuple(int(c) for c in tint), thing.box, _mask(thing.shape, side))
    return image


def _background(scene: Scene, rng: np.random.Generator) -> Image.Image:
    nodes = (scene.height // GRAIN + 2, scene.width // GRAIN + 2)
    coarse = Image.fromarray(rng.integers(0, 2 * TEXTURE + 1, nodes, dtype=np.uint8))
    texture = np.asarray(coarse.resize((scene.width, scene.height), Image.Resampling.BILINEAR), dtype=np.int16)
    base = np.array(BACKGROUND_RGB[scene.background], dtype=np.int16)
    pixels = np.clip(base + (texture - TEXTURE)[..., None], 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


@lru_cache(maxsize=1024)
def _mask(shape: str, side: int) -> Image.Image:
    """Return the coverage of the shape in a box of `side` pixels, drawn larger and averaged down."""
    big = side * SUPERSAMPLE
    image = Image.new("L", (big, big))
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((0, 0, big - 1, big - 1), fill=255)
    else:
        draw.polygon([(x * (big - 1), y * (big - 1)) for x, y in _OUTLINES[shape]], fill=255)
    return image.reduce(SUPERSAMPLE)


def _star() -> tuple[tuple[float, float], ...]:
    """Return a star with five points that fills the width of the unit box."""
    points = []
    for k in range(10):
        radius, angle = (0.526 if k % 2 == 0 else 0.215), math.pi * k / 5
        points.append((0.5 + radius * math.sin(angle), 0.526 - radius * math.cos(angle)))
    return tuple(points)


_A, _B = 0.33, 0.67  # the cross's arms
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "triangle": ((0.5, 0.02), (1.0, 0.98), (0.0, 0.98)),
    "star": _star(),
    "cross": (
        (_A, 0.0), (_B, 0.0), (_B, _A), (1.0, _A), (1.0, _B), (_B, _B),
        (_B, 1.0), (_A, 1.0), (_A, _B), (0.0, _B), (0.0, _A), (_A, _A),
    ),
}  # fmt: skip

"""Scenes of the mini world: things and places, sampled from a seed. `render.py` makes pixels, `text.py` words."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

SIZES = ("small", "large")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross")
BACKGROUNDS = ("white", "gray", "beige", "pale blue", "pale green", "pale pink")

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
REGIONS = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)

# Pairs (colour, shape) that no labelled split shows or names; the model can only learn them by itself.
HELD_OUT = (
    ("red", "star"),
    ("blue", "triangle"),
    ("green", "circle"),
    ("yellow", "cross"),
    ("purple", "square"),
    ("black", "star"),
)

# Image sizes (width, height) with weights. At slicing scale 112 the first group (area <= 112 * 112) is one view,
# the second gives two slices and the third four: 62, 25 and 13 per cent of the images.
CANVASES: tuple[tuple[tuple[int, int], float], ...] = (
    ((112, 112), 16), ((98, 126), 8), ((126, 98), 8), ((84, 140), 6), ((140, 84), 6),
    ((98, 98), 6), ((84, 112), 4), ((112, 84), 4), ((84, 84), 4),
    ((168, 112), 7), ((112, 168), 7), ((224, 112), 3), ((112, 224), 3), ((140, 140), 5),
    ((168, 168), 7), ((196, 140), 3), ((140, 196), 3),
)  # fmt: skip
NUMBERS_OF_THINGS = ((1, 20), (2, 32), (3, 28), (4, 20))

# Side of a thing's box / sqrt(width * height); relative, because slicing scales every image to the same area.
SIDE = {"small": (0.215, 0.245), "large": (0.36, 0.39)}
# Range of a centre in each third, as a share of width or height, away from the borders between regions.
THIRDS = ((0.0, 0.30), (0.42, 0.58), (0.70, 1.0))
GAP = 3  # pixels between two boxes

T = TypeVar("T")


@dataclass(frozen=True)
class Thing:
    """One thing: its attributes and its box in pixels (left and top inclusive, right and bottom exclusive)."""

    size: str
    colour: str
    shape: str
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[float, float]:
        """Return (x, y) in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def attributes(self) -> tuple[str, str, str]:
        """Return (size, colour, shape), an object in evaluation."""
        return self.size, self.colour, self.shape

    @property
    def held_out(self) -> bool:
        """Return whether its colour and shape are a held-out pair."""
        return (self.colour, self.shape) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """Ground truth of an image. Things are in distinct regions of a 3 x 3 grid, in reading order."""

    id: str
    width: int
    height: int
    background: str
    things: tuple[Thing, ...]

    def column(self, thing: Thing) -> int:
        """Return 0, 1 or 2: the third of the width with the thing's centre."""
        return min(2, int(3 * thing.centre[0] / self.width))

    def row(self, thing: Thing) -> int:
        """Return 0, 1 or 2: the third of the height with the thing's centre."""
        return min(2, int(3 * thing.centre[1] / self.height))

    def region(self, thing: Thing) -> str:
        """Return the thing's place, its row and column: `top left`, `middle center`, `bottom right`."""
        return f"{ROWS[self.row(thing)]} {COLUMNS[self.column(thing)]}"

    @property
    def held_out(self) -> bool:
        """Return whether any thing is of a held-out pair."""
        return any(t.held_out for t in self.things)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; `from_json` reads it back."""
        things = [{"size": t.size, "color": t.colour, "shape": t.shape, "box": list(t.box)} for t in self.things]
        return {
            "id": self.id, "width": self.width, "height": self.height,
            "background": self.background, "things": things,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Scene:
        """Return the scene that `to_json` wrote."""
        things = tuple(Thing(t["size"], t["color"], t["shape"], tuple(t["box"])) for t in value["things"])
        return cls(value["id"], value["width"], value["height"], value["background"], things)


@dataclass(frozen=True)
class SceneRules:
    """Rules for a split's scenes. `held_out_share`: share of scenes with at least one held-out pair."""

    held_out_share: float = 0.0


LABELLED = SceneRules(0.0)
UNLABELLED = SceneRules(0.2)


def digest(*parts: object) -> int:
    """Return a 64-bit number that depends only on the parts; it seeds every random choice of the mini world."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


def choose(options: Sequence[T], *key: object) -> T:
    """Return one of the options, determined by the key."""
    return options[digest(*key) % len(options)]


def draw_scene(seed: int, split: str, index: int, rules: SceneRules) -> Scene:
    """Return scene number `index` of a split: a pure function of its arguments."""
    rng = random.Random(digest(seed, split, index))
    width, height = _weighted_choice(rng, CANVASES)
    number = _weighted_choice(rng, NUMBERS_OF_THINGS)
    background = rng.choice(BACKGROUNDS)
    with_held_out = rng.random() < rules.held_out_share
    boxes = None
    while boxes is None:  # four large things do not fit everywhere: after some tries, sample other sizes
        attributes = _draw_attributes(rng, number, with_held_out)
        sizes = [size for size, _, _ in attributes]
        boxes = next((b for _ in range(40) if (b := _place(rng, width, height, sizes))), None)
    things = tuple(Thing(*a, box) for a, box in zip(attributes, boxes, strict=True))
    return in_reading_order(Scene(f"{split}-{index:05d}", width, height, background, things))


def in_reading_order(scene: Scene) -> Scene:
    """Return the scene with its things row by row, from left to right."""
    return replace(scene, things=tuple(sorted(scene.things, key=lambda t: (scene.row(t), scene.column(t)))))


def _weighted_choice(rng: random.Random, table: Sequence[tuple[T, float]]) -> T:
    return rng.choices([value for value, _ in table], [weight for _, weight in table])[0]


def _draw_attributes(rng: random.Random, number: int, with_held_out: bool) -> list[tuple[str, str, str]]:
    """Return distinct (size, colour, shape), the first of a held-out pair on request, else none of them.

    Things often share a shape or a colour with an earlier one, so that counting and comparing need the image.
    """
    drawn: list[tuple[str, str, str]] = []
    while len(drawn) < number:
        size, colour, shape = rng.choice(SIZES), rng.choice(COLOURS), rng.choice(SHAPES)
        if with_held_out and not drawn:
            colour, shape = rng.choice(HELD_OUT)
        elif drawn and (kind := rng.random()) < 0.55:
            _, other_colour, other_shape = rng.choice(drawn)
            colour, shape = (other_colour, shape) if kind < 0.25 else (colour, other_shape)
        if (size, colour, shape) not in drawn and (with_held_out or (colour, shape) not in HELD_OUT):
            drawn.append((size, colour, shape))
    return drawn


def _place(rng: random.Random, width: int, height: int, sizes: Sequence[str]) -> list[tuple[int, int, int, int]] | None:
    """Return boxes in distinct regions without overlap, or None if they do not fit."""
    regions = rng.sample([(column, row) for column in range(3) for row in range(3)], len(sizes))
    boxes: list[tuple[int, int, int, int]] = []
    for size, (column, row) in zip(sizes, regions, strict=True):
        side = round(rng.uniform(*SIDE[size]) * math.sqrt(width * height))
        left = _start(rng, side, width, THIRDS[column])
        top = _start(rng, side, height, THIRDS[row])
        if left is None or top is None:
            return None
        box = (left, top, left + side, top + side)
        if any(_overlap(box, other) for other in boxes):
            return None
        boxes.append(box)
    return boxes


def _start(rng: random.Random, side: int, extent: int, third: tuple[float, float]) -> int | None:
    """Return the start of a box with its centre in the third and the box inside the image, None if impossible."""
    low = max(1, math.ceil(third[0] * extent - side / 2))
    high = min(extent - side - 1, math.floor(third[1] * extent - side / 2))
    return rng.randint(low, high) if low <= high else None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] + GAP and b[0] < a[2] + GAP and a[1] < b[3] + GAP and b[1] < a[3] + GAP

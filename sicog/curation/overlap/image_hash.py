"""Perceptual hash of an image in 256 bits, and search for near images.

Each bit says whether one of the 16 x 16 lowest DCT coefficients of the grey image is above a median (pHash, Zauner
2010). Word 0 holds the 8 x 8 lowest and finds candidates; words 1 to 3 confirm them. A scaled or recompressed copy
keeps nearly all bits. Word 0 alone would match different charts of one style.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

import numpy as np
from PIL import Image

from sicog.curation.overlap.clusters import Numbers, pairs_of_equal, unique_pairs
from sicog.curation.words import Hashes

WORDS = 4
FINER = 4  # factor on the distance for the finer bits, of which there are three times as many
MAX_DISTANCE = 12
_SIDE, _WAVES, _LOWEST = 64, 16, 8
_FLAT = 2.0  # standard deviation in grey levels; an image below it is plain and is not compared
# Relative to the sum over all pixels: noise that recompression adds to a fine coefficient of a smooth image.
_NOISE = 150.0


def image_hash(image: Image.Image) -> Hashes | None:
    """Return uint64 [WORDS] for an image of any size; None for an image of a single colour."""
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(grey, dtype=np.float64)
    if pixels.std() < _FLAT:
        return None
    cosines, is_lowest = _tables()
    waves = cosines @ pixels @ cosines.T
    lowest, finer = waves[is_lowest], waves[~is_lowest]
    bits = np.concatenate((lowest > np.median(lowest), finer > np.median(finer) + _NOISE))
    return np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64)


@lru_cache(1)
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return float64 [_WAVES, _SIDE], the lowest cosine waves without the constant one; bool [_WAVES, _WAVES]."""
    k, x = np.arange(1, _WAVES + 1)[:, None], np.arange(_SIDE)[None]
    is_lowest = np.zeros((_WAVES, _WAVES), dtype=bool)
    is_lowest[:_LOWEST, :_LOWEST] = True
    return np.cos(np.pi * k * (2 * x + 1) / (2 * _SIDE)), is_lowest


def distances(ones_P: Hashes, others_P: Hashes) -> Hashes:
    """Return uint64 [P]: the number of differing bits of each pair of words."""
    x = ones_P ^ others_P  # numpy has bitwise_count only since version 2
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


def are_near(ones_PW: Hashes, others_PW: Hashes, distance: int) -> np.ndarray:
    """Return bool [P]: at most `distance` bits of word 0 differ, and at most FINER times as many of the others."""
    near: np.ndarray = distances(ones_PW[:, 0], others_PW[:, 0]) <= distance
    finer = sum(distances(ones_PW[near, k], others_PW[near, k]) for k in range(1, WORDS))
    near[near] = finer <= FINER * distance
    return near


def near_pairs(hashes_NW: Hashes, distance: int) -> tuple[Numbers, Numbers]:
    """Return all pairs of positions of near images, each once, lower position first. Give equal hashes only once.

    Word 0 is cut into distance + 2 parts. With at most `distance` differing bits, two parts stay equal. So comparing
    only images that share two parts misses no pair.
    """
    parts = list(_parts(hashes_NW[:, 0], distance + 2))
    found = []
    for one, other in combinations(parts, 2):
        for ones, others in pairs_of_equal(one | other):
            near = are_near(hashes_NW[ones], hashes_NW[others], distance)
            if near.any():
                found.append((ones[near], others[near]))
    return unique_pairs(found)


def _parts(words_N: Hashes, n: int) -> Iterator[Hashes]:
    """Yield, for each of the `n` parts, the words with all other bits set to 0."""
    ends = [64 * k // n for k in range(n + 1)]
    for low, high in zip(ends[:-1], ends[1:], strict=True):
        yield words_N & np.uint64(((1 << (high - low)) - 1) << low)

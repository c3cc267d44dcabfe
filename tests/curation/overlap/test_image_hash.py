"""image_hash.py: copies are near, other pictures are not, and no near pair is missed."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from skimage import data

from sicog.curation.overlap.image_hash import WORDS, are_near, distances, image_hash, near_pairs

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "page", "coins")


def photographs():
    return [Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOGRAPHS]


def recompressed(image, quality=60):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def hashes(images):
    return np.stack([image_hash(image) for image in images])


def test_copies_of_a_photograph_are_near_and_other_photographs_are_not():
    originals = photographs()
    known = hashes(originals)
    half = [image.resize((image.width // 2, image.height // 2)) for image in originals]
    square = [image.resize((336, 336)) for image in originals]
    grey = [image.convert("L").convert("RGB") for image in originals]
    for copies in ([recompressed(image) for image in originals], half, square, grey):
        assert are_near(known, hashes(copies), 6).all()
    ones, others = np.triu_indices(len(known), 1)
    assert not are_near(known[ones], known[others], 12).any()


def test_documents_of_one_layout_are_not_near():
    rng = np.random.default_rng(0)
    pages = []
    for _ in range(12):
        page = Image.new("RGB", (400, 500), "white")
        for line in range(20):
            ImageDraw.Draw(page).text((30, 20 + 22 * line), "word " * int(rng.integers(2, 12)), fill="black")
        pages.append(image_hash(page))
    assert not len(near_pairs(np.stack(pages), 6)[0])


def test_an_image_of_one_colour_has_no_hash():
    assert image_hash(Image.new("RGB", (50, 40), "red")) is None
    assert image_hash(Image.new("RGB", (1, 1))) is None
    assert image_hash(Image.linear_gradient("L").convert("RGB").resize((1, 2000))) is not None


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 12), st.randoms(use_true_random=False))
def test_no_pair_within_the_distance_is_missed(distance, random):
    """Recall is 1: every hash with at most `distance` low and 4 x `distance` finer bits flipped is found."""
    base = [[random.getrandbits(64) for _ in range(WORDS)] for _ in range(20)]
    near = []
    for words in base:
        low, finer = random.sample(range(64), distance), random.sample(range(64, 256), 4 * distance)
        flipped = list(words)
        for bit in low[: random.randint(0, distance)] + finer[: random.randint(0, 4 * distance)]:
            flipped[bit // 64] ^= 1 << (bit % 64)
        near.append(flipped)
    known = np.unique(np.array(base + near, dtype=np.uint64), axis=0)
    ones, others = np.triu_indices(len(known), 1)
    expected = are_near(known[ones], known[others], distance)
    found = set(zip(*(side.tolist() for side in near_pairs(known, distance)), strict=True))
    assert found == set(zip(ones[expected].tolist(), others[expected].tolist(), strict=True))
    assert len(found) >= len(known) - 20


@pytest.mark.parametrize(("one", "other", "bits"), [(0, 0, 0), (0, 2**64 - 1, 64), (1 << 63, 1, 2), (0xF0, 0x0F, 8)])
def test_distances(one, other, bits):
    assert distances(np.array([one], dtype=np.uint64), np.array([other], dtype=np.uint64)) == bits

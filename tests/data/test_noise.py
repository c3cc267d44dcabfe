"""Noise changes what is seen, never the size, and `left` only where the picture is mirrored too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sicog.data.config import NoiseConfig
from sicog.data.noise import RowNoise, swap_left_right
from sicog.records import Turn

GRADIENT = np.stack([np.tile(np.arange(64), (48, 1)) * 4, np.full((48, 64), 90), np.full((48, 64), 30)], axis=-1)
IMAGE = Image.fromarray(GRADIENT.astype(np.uint8))


def test_a_row_looks_the_same_each_time_and_rows_differ():
    noise = RowNoise(NoiseConfig(jitter=0.4, scale=0.3, cutout=0.2), 7)
    one, again = (noise.images("a", [IMAGE, IMAGE], mirrored=False) for _ in range(2))
    assert [i.tobytes() for i in one] == [i.tobytes() for i in again]
    other = noise.images("b", [IMAGE], mirrored=False)[0]
    assert len({one[0].tobytes(), one[1].tobytes(), other.tobytes(), IMAGE.tobytes()}) == 4


@given(st.integers(1, 90), st.integers(1, 90), st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_sizes_never_change(width, height, jitter, scale, cutout):
    image = Image.new("RGB", (width, height), (200, 10, 10))
    noise = RowNoise(NoiseConfig(jitter=jitter, scale=scale, cutout=cutout), 0)
    assert noise.images("x", [image], mirrored=True)[0].size == (width, height)


def test_each_kind_does_what_it_says():
    none = RowNoise(NoiseConfig(), 0).images("a", [IMAGE], mirrored=False)[0]
    assert none.tobytes() == IMAGE.tobytes()
    mirrored = RowNoise(NoiseConfig(mirror=1), 0).images("a", [IMAGE], mirrored=True)[0]
    assert (np.asarray(mirrored) == np.asarray(IMAGE)[:, ::-1]).all()
    cut = np.asarray(RowNoise(NoiseConfig(cutout=0.5), 1).images("a", [IMAGE], mirrored=False)[0])
    changed = (cut != np.asarray(IMAGE)).any(axis=-1)
    rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
    assert 0.0 < changed.mean() <= 0.5 and len(np.unique(cut[changed], axis=0)) == 1
    assert rows[-1] - rows[0] + 1 == len(rows) and columns[-1] - columns[0] + 1 - len(columns) <= 1
    shrunk = np.asarray(RowNoise(NoiseConfig(scale=0.5), 2).images("a", [IMAGE], mirrored=False)[0])
    assert (shrunk[..., 0] == np.median(GRADIENT[..., 0])).mean() > 0.05
    bright = np.asarray(RowNoise(NoiseConfig(jitter=0.5), 3).images("a", [IMAGE], mirrored=False)[0])
    assert abs(bright.mean() - GRADIENT.mean()) > 1


def test_rows_are_mirrored_as_often_as_asked():
    noise = RowNoise(NoiseConfig(mirror=0.3), 0)
    assert 0.25 < np.mean([noise.mirrors(str(k)) for k in range(2000)]) < 0.35
    assert not any(RowNoise(NoiseConfig(), 0).mirrors(str(k)) for k in range(50))


def test_sides_are_exchanged_in_words_and_nowhere_else():
    text = "Left of the RIGHT door, the leftmost cat looks rightwards; bright, copyright and lefty stay. Right-hand."
    (turn,) = swap_left_right([Turn(role="user", text=text, images_at=(0,))])
    want = "Right of the LEFT door, the rightmost cat looks leftwards; bright, copyright and lefty stay. Left-hand."
    assert turn.text == want and turn.images_at == (0,)
    assert swap_left_right([turn])[0].text == text


@pytest.mark.parametrize("values", [{"jitter": 1.0}, {"mirror": 1.5}, {"cutout": -0.1}, {"dropout": 1.0}])
def test_shares_are_shares(values):
    with pytest.raises(ValueError):
        NoiseConfig(**values)

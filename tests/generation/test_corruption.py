"""The four corruptions: what they do, that seeds decide, and that odd sizes work."""

import math

import numpy as np
import pytest
from PIL import Image

from sicog.generation.corruption import METHODS, corrupt, half_plane


def _photo(width=200, height=120, seed=0):
    rng = np.random.default_rng(seed)
    base = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return base.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_and_id_same_image_other_id_another(method):
    image = _photo()
    outs = [corrupt(image, [method], 3, f"row-{i}") for i in range(6)]
    assert corrupt(image, [method], 3, "row-0").tobytes() == outs[0].tobytes()
    assert len({out.tobytes() for out in outs}) > 1 and image.tobytes() not in {out.tobytes() for out in outs}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 3)])
def test_odd_sizes(method, size):
    out = corrupt(_photo(*size), [method], 0, "a")
    assert out.mode == "RGB" and sorted(out.size) == sorted(size)


def test_empty_pool_is_the_image_itself():
    image = _photo()
    assert corrupt(image, [], 0, "a") is image


def test_all_methods_of_a_pool_are_drawn():
    image = _photo(40, 30)
    outputs = {corrupt(image, list(METHODS), 0, str(i)).tobytes() for i in range(40)}
    assert len(outputs) > 30


def test_half_plane_covers_the_share_at_every_angle():
    for width, height in ((200, 120), (64, 640), (333, 333)):
        for angle in np.linspace(0, 2 * math.pi, 37):
            for share in (0.25, 0.3, 0.35, 0.5):
                assert abs(half_plane(width, height, float(angle), share).mean() - share) < 0.012


def test_mask_fills_a_half_plane_with_its_mean():
    image = _photo()
    before, after = np.asarray(image), np.asarray(corrupt(image, ["mask"], 1, "a"))
    changed = (before != after).any(axis=2)
    assert 0.2 < changed.mean() <= 0.36
    colours = np.unique(after[changed], axis=0)
    assert len(colours) == 1
    assert np.abs(before[changed].mean(axis=0) - colours[0]).max() < 3


def test_mirror_rotation_is_one_of_two():
    image = _photo()
    mirrored = np.asarray(image)[:, ::-1]
    wanted = [np.rot90(mirrored, 1), np.rot90(mirrored, 3)]
    outs = [np.asarray(corrupt(image, ["mirror_rotation"], 0, str(i))) for i in range(12)]
    assert {next(k for k, w in enumerate(wanted) if np.array_equal(o, w)) for o in outs} == {0, 1}

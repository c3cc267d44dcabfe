"""The four corruptions: what they do, that seeds decide, that they can be done again, and that odd sizes work."""

import math

import numpy as np
import pytest
from PIL import Image

from sicog.generation.corruption import METHODS, apply, draw_corruption, half_plane, turns
from sicog.generation.show_corruptions import show_corruptions
from sicog.records import Corruption


def _photo(width=200, height=120, seed=0):
    rng = np.random.default_rng(seed)
    base = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return base.resize((width, height), Image.Resampling.BICUBIC)


def corrupt(image, pool, seed, image_id):
    return apply(image, draw_corruption(pool, seed, image_id))


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_and_id_same_image_other_id_another(method):
    image = _photo()
    outs = [corrupt(image, [method], 3, f"row-{i}") for i in range(6)]
    assert corrupt(image, [method], 3, "row-0").tobytes() == outs[0].tobytes()
    assert len({out.tobytes() for out in outs}) > 1 and image.tobytes() not in {out.tobytes() for out in outs}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_recorded_does_the_same_again(method):
    corruption = draw_corruption([method], 1, "row")
    again = Corruption.model_validate_json(corruption.model_dump_json())
    assert again == corruption and corruption.method == method and corruption.parameters
    assert apply(_photo(), again).tobytes() == apply(_photo(), corruption).tobytes()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 3)])
def test_odd_sizes(method, size):
    corruption = draw_corruption([method], 0, "a")
    out = apply(_photo(*size), corruption)
    assert out.mode == "RGB" and out.size == (size[::-1] if turns(corruption) else size)


def test_all_methods_of_a_pool_are_drawn():
    found = {draw_corruption(tuple(METHODS), 0, str(i)).method for i in range(40)}
    assert found == set(METHODS)


def test_half_plane_covers_the_share_at_every_angle():
    for width, height in ((200, 120), (64, 640), (333, 333)):
        for angle in np.linspace(0, 2 * math.pi, 37):
            for share in (0.25, 0.3, 0.35, 0.5):
                assert abs(half_plane(width, height, float(angle), share).mean() - share) < 0.012


def test_mask_fills_a_half_plane_with_its_mean():  # one draw, no loop of rejections
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


def test_the_sheet_shows_each_method_as_it_is_recorded(tmp_path):
    _photo().save(tmp_path / "photo.png")
    done = show_corruptions(tmp_path / "photo.png", tmp_path / "new" / "sheet.png", seed=4)
    assert [c.method for c in done] == ["gaussian_blur", "color_jitter", "mirror_rotation", "mask"]
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    shown = np.asarray(apply(_photo(), done[3]))
    left = 12 + 4 * (320 + 12)  # the fifth tile, in its own size
    assert np.array_equal(sheet[12 : 12 + 120, left : left + 200], shown)
    with pytest.raises(ValueError, match="must end in .png"):
        show_corruptions(tmp_path / "photo.png", tmp_path / "sheet.jpg")

"""Scenes: pure functions of their seed, things apart and inside, shares as declared, pixels that show the things."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.mini.render import BACKGROUND_RGB, RGB, _mask, render_scene
from sicog.mini.scene import HELD_OUT, LABELLED, SHAPES, UNLABELLED, Scene, draw_scene
from sicog.model.slicing import plan_slices

MANY = [draw_scene(3, "many", i, UNLABELLED) for i in range(1500)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 10_000), st.sampled_from([LABELLED, UNLABELLED]))
def test_a_scene_is_sound(seed, index, rules):
    scene = draw_scene(seed, "s", index, rules)
    assert scene == draw_scene(seed, "s", index, rules) == Scene.from_json(scene.to_json())
    assert 1 <= len(scene.things) <= 4
    assert len({t.attributes for t in scene.things}) == len(scene.things)
    assert len({scene.region(t) for t in scene.things}) == len(scene.things)
    covered = np.zeros((scene.height, scene.width), int)
    for t in scene.things:
        left, top, right, bottom = t.box
        assert 0 < left < right < scene.width and 0 < top < bottom < scene.height
        covered[top:bottom, left:right] += 1
        relative = (right - left) / (scene.width * scene.height) ** 0.5
        assert relative < 0.27 if t.size == "small" else relative > 0.34  # never in doubt
    assert covered.max() == 1
    if rules is LABELLED:
        assert not scene.held_out


def test_reading_order():
    for scene in MANY[:100]:
        cells = [(scene.row(t), scene.column(t)) for t in scene.things]
        assert cells == sorted(cells)


def test_regions_are_named_by_the_grid():
    scene = next(s for s in MANY if len(s.things) == 1)
    (thing,) = scene.things
    x, y = thing.centre
    words = scene.region(thing).split()
    assert ("left" in words) == (x < scene.width / 3) and ("right" in words) == (x > 2 * scene.width / 3)
    assert ("top" in words) == (y < scene.height / 3) and ("bottom" in words) == (y > 2 * scene.height / 3)


def test_shares_of_slices_and_of_held_out_pairs():
    plans = [plan_slices(s.width, s.height, scale=112) for s in MANY]
    slices = [p.grid[0] * p.grid[1] if p.grid else 1 for p in plans]
    assert 0.57 < np.mean([n == 1 for n in slices]) < 0.67
    assert 0.08 < np.mean([n == 4 for n in slices]) < 0.18
    assert set(slices) == {1, 2, 4}
    assert 0.17 < np.mean([s.held_out for s in MANY]) < 0.23
    assert {(t.colour, t.shape) for s in MANY for t in s.things if t.held_out} == set(HELD_OUT)


def test_every_colour_and_every_shape_is_seen_in_labelled_scenes():
    pairs = {(t.colour, t.shape) for i in range(400) for t in draw_scene(0, "l", i, LABELLED).things}
    assert len(pairs) == 40 - len(HELD_OUT) and not pairs & set(HELD_OUT)


def test_seed_split_and_index_all_matter():
    base = draw_scene(1, "a", 2, LABELLED)
    for other in (draw_scene(2, "a", 2, LABELLED), draw_scene(1, "b", 2, LABELLED), draw_scene(1, "a", 3, LABELLED)):
        assert (base.things, base.background, base.width) != (other.things, other.background, other.width)


@pytest.mark.parametrize("scene", MANY[:40], ids=lambda s: s.id)
def test_pixels_show_the_things(scene):
    image = render_scene(scene)
    assert image.size == (scene.width, scene.height) and image.mode == "RGB"
    assert image.tobytes() == render_scene(scene).tobytes()
    for t in scene.things:
        x, y = (int(c) for c in t.centre)
        assert np.abs(np.array(image.getpixel((x, y))) - RGB[t.colour]).max() <= 10  # every shape covers its centre
    ground = np.array(image).reshape(-1, 3).astype(int)
    near = np.abs(ground - BACKGROUND_RGB[scene.background]).max(axis=1) <= 9
    assert near.mean() > 0.3


def test_colours_and_shapes_are_told_apart():
    colours = np.array(list(RGB.values()))
    apart = np.abs(colours[:, None] - colours[None]).max(axis=2) + 1000 * np.eye(len(RGB), dtype=int)
    assert apart.min() > 2 * 10 + 40  # the tints of two colours never meet
    masks = np.array([np.asarray(_mask(s, 24), dtype=int) for s in SHAPES]) / 255
    for i in range(len(SHAPES)):
        for j in range(i):
            assert np.abs(masks[i] - masks[j]).mean() > 0.15

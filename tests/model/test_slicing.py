"""Slice plans: the golden sizes exactly, and what must hold for any size."""

import json
import math

import pytest
from golden_recipe import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from sicog.model.slicing import plan_slices

SIDES = st.integers(1, 30_000)


def test_agrees_with_the_golden_sizes():
    cases = json.loads((GOLDEN / "slicing.json").read_text())
    assert len(cases) == 300
    for case in cases:
        plan = plan_slices(case["width"], case["height"])
        assert list(plan.thumbnail_size) == case["thumbnail"], case
        assert (plan.grid and list(plan.grid)) == case["grid"], case
        assert (plan.slice_size and list(plan.slice_size)) == case["slice"], case
        assert plan.n_slices == case["n_slices"]


@given(SIDES, SIDES)
def test_every_size_has_a_usable_plan(width, height):
    plan = plan_slices(width, height)
    for side in (*plan.thumbnail_size, *(plan.slice_size or ())):
        assert side >= 14
        assert side % 14 == 0
    assert plan.n_slices <= 7
    if plan.grid is None:
        assert plan.slice_size is plan.resized_size is None
    else:
        columns, rows = plan.grid
        assert plan.n_slices >= 2
        assert plan.resized_size == (plan.slice_size[0] * columns, plan.slice_size[1] * rows)


@given(st.integers(100, 5000), st.integers(100, 5000))
def test_ordinary_views_keep_area_and_aspect(width, height):
    plan = plan_slices(width, height)
    w, h = plan.thumbnail_size
    assert w * h <= 336 * 336
    if max(width, height) <= 4 * min(width, height):
        assert abs(math.log(w / h) - math.log(width / height)) < 0.15


def test_ties_go_to_three_columns_for_a_square():
    assert plan_slices(1024, 1024).grid == (3, 2)


def test_other_scales():
    plan = plan_slices(224, 224, scale=112, max_slices=4)
    assert plan.grid == (2, 2)
    assert plan.slice_size == plan.thumbnail_size == (112, 112)


def test_without_slices_keeps_the_thumbnail():
    plan = plan_slices(1024, 768)
    assert plan.without_slices().thumbnail_size == plan.thumbnail_size
    assert plan.without_slices().n_slices == 0


def test_no_pixels_is_an_error():
    with pytest.raises(ValueError, match="at least one pixel"):
        plan_slices(0, 10)

"""The token sequence of an image and the order of its features."""

import subprocess
import sys

import pytest

from sicog.model.layout import Slot, count_features, count_tokens, feature_order, image_slots, image_tokens

GRIDS = [None, (2, 1), (1, 2), (2, 2), (3, 2), (7, 1), (1, 7)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("g", [1, 4, 12])
def test_counts_agree_with_the_sequence(grid, g):
    slots = image_slots(grid, g)
    assert len(slots) == count_tokens(grid, g)
    assert slots.count(Slot.FEATURE) == count_features(grid, g) == len(feature_order(*(grid or (0, 0)), g))


@pytest.mark.parametrize(
    ("grid", "length"), [((2, 2), 745), ((3, 2), 1033), ((7, 1), 1165), ((1, 7), 1237), (None, 144)]
)
def test_lengths_of_the_original(grid, length):
    assert count_tokens(grid, 12) == length


def test_zero_grid_means_unsliced():
    assert image_slots((0, 0), 3) == image_slots(None, 3) == (Slot.FEATURE,) * 9
    assert count_tokens((0, 0), 3) == count_features((0, 0), 3) == 9


def test_sequence_of_a_small_grid():
    f, r, g = Slot.FEATURE, Slot.ROW_SEPARATOR, Slot.GROUP_SEPARATOR
    assert image_slots((2, 1), 2) == (f, f, f, f, r, f, f, f, f, r, g, f, f, f, f)


def test_one_column_separates_groups_with_the_row_separator():
    assert Slot.GROUP_SEPARATOR not in image_slots((1, 3), 2)
    assert Slot.GROUP_SEPARATOR in image_slots((3, 1), 2)


def test_tokens_are_the_ids_of_the_slots():
    ids = image_tokens((2, 1), 1, image_token_id=9, row_separator_id=5, slice_separator_id=6)
    assert ids == (9, 9, 5, 6, 9)


def test_order_stitches_the_slices():
    # views 0..3 hold 0-3, 4-7, 8-11, 12-15; the thumbnail 16-19
    assert feature_order(2, 2, 2) == (0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 16, 17, 18, 19)
    assert feature_order(0, 0, 2) == (0, 1, 2, 3)


@pytest.mark.parametrize("grid", [(1, 7), (3, 2), (0, 0)])
def test_order_is_a_permutation(grid):
    order = feature_order(*grid, 12)
    assert sorted(order) == list(range(len(order)))


def test_imports_without_torch():
    code = "import sys, sicog.model.slicing, sicog.model.layout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The order of a run is a pure function of lengths, sizes and seed."""

from __future__ import annotations

import numpy as np
import pytest

from sicog.data.batching import RunPlan, accumulation_steps, plan_run

LENGTHS = np.random.default_rng(0).integers(10, 500, 100).tolist()


def updates(plan: RunPlan) -> np.ndarray:
    return np.stack([plan.rows_of(step) for step in range(plan.n_steps)])


def test_an_epoch_sees_every_row_once_and_fills_the_last_update() -> None:
    plan = plan_run(LENGTHS, global_batch=8, device_batch=8, seed=1)
    assert updates(plan).shape == (13, 8) and plan.step_borders.tolist() == list(range(0, 105, 8))
    assert sorted(plan.rows[:100]) == list(range(100))


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 5), (1, 10), (2, 20), (0.1, 1), (0.01, 1), (2.05, 21)])
def test_steps_of_epochs(epochs: float, steps: int) -> None:
    assert plan_run(LENGTHS, global_batch=10, device_batch=5, epochs=epochs, seed=1).n_steps == steps


def test_epochs_differ_and_max_steps_replaces_them() -> None:
    plan = plan_run(LENGTHS, global_batch=10, device_batch=5, max_steps=20, seed=1)
    first, second = plan.rows[:100], plan.rows[100:]
    assert sorted(first) == sorted(second) == list(range(100)) and list(first) != list(second)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_seed_decides_and_nothing_else(grouped: bool) -> None:
    def rows(seed: int) -> list[list[int]]:
        plan = plan_run(LENGTHS, global_batch=8, device_batch=4, epochs=3, seed=seed, group_by_length=grouped)
        return updates(plan).tolist()

    np.random.seed(5)
    first = rows(1)
    np.random.seed(6)
    assert rows(1) == first != rows(2)


def test_grouping_keeps_the_rows_and_saves_padding() -> None:
    plain = plan_run(LENGTHS, global_batch=10, device_batch=10, seed=1)
    grouped = plan_run(LENGTHS, global_batch=10, device_batch=10, seed=1, group_by_length=True)
    assert sorted(grouped.rows) == sorted(plain.rows)

    def padded(plan: RunPlan) -> int:
        return int((np.array(LENGTHS)[updates(plan)].max(axis=1) * 10).sum())

    assert padded(grouped) < 0.8 * padded(plain)


def test_ranks_share_each_update_without_overlap() -> None:
    plan = plan_run(LENGTHS, global_batch=8, device_batch=2, world_size=2, seed=1)
    ranks = [list(plan.micro_batches(r)) for r in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == len(plan.micro_batches(0)) == plan.n_steps * 2 and plan.accumulation == 2
    for step in range(plan.n_steps):
        rows = [row for batches in ranks for batch in batches[2 * step : 2 * step + 2] for row in batch]
        assert sorted(rows) == sorted(plan.rows_of(step))


def test_fewer_rows_than_the_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="100 usable rows"):
        plan_run(LENGTHS, global_batch=128, device_batch=8, seed=1)


def test_accumulation_is_derived() -> None:
    assert accumulation_steps(256, 8, 16) == 2
    assert accumulation_steps(8, 8, 1) == 1


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ((100, 8, 2), ["global_batch 96 or 112", "device_batch 5 or 10"]),
        ((4, 8, 1), ["global_batch 8", "device_batch 2 or 4"]),
        ((6, 4, 4), ["global_batch 16"]),
    ],
)
def test_a_batch_that_does_not_divide_names_the_nearest_choices(sizes: tuple[int, int, int], parts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        accumulation_steps(*sizes)
    assert all(part in str(caught.value) for part in parts), str(caught.value)

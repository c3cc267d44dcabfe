"""save_times.py: a checkpoint comes by updates or by the clock, and never costs more than a tenth of the time."""

import pytest

from sicog.training.save_times import SaveTimes


def saves(n_steps: int, seconds_a_step: float, *, save_steps: int | None = None, cost: float = 0.0) -> list[int]:
    """The updates after which a run saves that takes so long per update and per checkpoint."""
    now = 0.0
    times = SaveTimes(n_steps, save_steps, 30.0, clock=lambda: now)
    times.begin()
    found = []
    for step in range(1, n_steps):
        now += seconds_a_step
        if times.is_due(step):
            now += cost
            times.saved(cost)
            found.append(step)
    return found


def test_every_half_hour_in_a_long_run() -> None:
    found = saves(6703, 9.0)  # instruction tuning with the paper's batch
    gaps = [after - before for before, after in zip([0, *found], found, strict=False)]
    assert max(gaps) == 200 and {*range(670, 6703, 670)} <= {*found}  # 30 minutes of 9 seconds, and the tenths


@pytest.mark.parametrize("n_steps", [1664, 547, 20])
def test_every_tenth_of_a_short_run(n_steps: int) -> None:
    tenth = n_steps // 10
    assert saves(n_steps, 1.0) == [step for step in range(tenth, n_steps, tenth)]


def test_a_run_of_fewer_than_ten_updates_may_save_after_each() -> None:
    assert saves(4, 1.0) == [1, 2, 3]


def test_saving_takes_at_most_a_tenth_of_the_time() -> None:
    found = saves(1000, 1.0, cost=60.0)
    assert found[:2] == [100, 700] and all(b - a >= 600 for a, b in zip(found, found[1:], strict=False))


def test_a_number_of_updates_is_taken_as_it_is() -> None:
    assert saves(10, 3600.0, save_steps=4, cost=9999.0) == [4, 8]

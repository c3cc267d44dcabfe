"""Speeds of a run by hand, the FLOPs of rows against the count of the model, and the table of devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sicog.data.batching import plan_run
from sicog.estimates.arithmetic.devices import device_rates
from sicog.estimates.arithmetic.flops import Work, training_flops
from sicog.estimates.shapes import read_config
from sicog.model.lengths import RowLengths
from sicog.model.part_names import PARTS
from sicog.training.speed import Meter, Speed, flops_and_peak

FULL_SIZE = Path(__file__).parents[2] / "recipes" / "configs" / "sicog-7b.json"


def lengths(*rows: tuple[int, int, int, int]) -> RowLengths:
    return RowLengths(*(np.array(column, dtype=np.int32) for column in zip(*rows, strict=True)))


def test_speeds_by_hand() -> None:
    """Two updates of two micro-batches of two rows on one process."""
    tokens = [10, 30, 20, 20, 5, 15, 40, 40]
    plan = plan_run(tokens, global_batch=4, device_batch=2, seed=0)
    known = lengths(*((t, 1, 0, 0) for t in tokens))
    meter = Meter(plan, known, np.array(tokens) * 1e9, peak=1e12)
    taken = [plan.rows[i : i + 2] for i in (0, 2, 4, 6)]
    computed = [2 * max(tokens[i] for i in rows) for rows in taken]
    useful = [sum(tokens[i] for i in rows) for rows in taken]
    second = sum(useful[2:])
    assert meter.between(1, 2, 0.5) == Speed(8, second * 2, second / sum(computed[2:]), second * 2 * 1e9 / 1e12)
    whole = meter.between(0, 2, 2.0)
    assert whole.tokens_per_second == 90 and whole.mfu == pytest.approx(0.09)
    assert whole.useful_tokens == 180 / sum(computed) < 1
    assert "MFU 9 %" in str(whole)
    # Without a known device no utilisation is shown, rather than a wrong one.
    assert Meter(plan, known).between(0, 2, 1.0).mfu is None and "MFU" not in str(Meter(plan, known).between(0, 2, 1.0))


def test_a_cpu_has_no_peak_and_a_known_device_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config, rows = read_config(FULL_SIZE), lengths((300, 120, 0, 0))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert flops_and_peak(config, PARTS, rows, 8) == (None, None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA A100-SXM4-40GB")
    flops, peak = flops_and_peak(config, PARTS, rows, 8)
    assert peak == 8 * 312e12
    assert flops == pytest.approx([sum(training_flops(config, Work((), 0, 300, 120)).values())])


def test_devices_are_known_by_the_words_of_their_names() -> None:
    names = ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "NVIDIA L4", "NVIDIA L40S"]
    assert [rates and rates[0] / 1e12 for rates in map(device_rates, names)] == [312, 756, 989, 121, 362]
    assert device_rates("NVIDIA H200 MIG 1g.18gb") is None and device_rates("NVIDIA GeForce RTX 3060") is None

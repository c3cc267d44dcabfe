"""The opening table: parts, rates, and the arithmetic of the batch with its warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sicog.data.batching import plan_run
from sicog.model import load_checkpoint
from sicog.model.lengths import RowLengths
from sicog.training.config import TrainConfig
from sicog.training.parts import set_trainable
from sicog.training.summary import batch_line, print_summary

MakeConfig = Callable[..., TrainConfig]


def test_the_opening_says_what_is_trained_and_how(
    config: MakeConfig, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_checkpoint(tiny_dir)[0]
    set_trainable(model, ["projector"])
    settings = config()
    ones = np.ones(24, dtype=np.int32)
    plan = plan_run(ones, global_batch=8, device_batch=4, seed=0)
    print_summary(model, settings, plan, batch_line(settings, 1), RowLengths(ones, ones, ones, ones))
    shown = capsys.readouterr().err
    n = sum(p.numel() for p in model.resampler.parameters())
    assert shown.count(f"{n:,}") == 3  # the projector: all, trained, and the total that is trained
    assert shown.count("frozen") == 2 and "0.001" in shown and "float32" in shown
    for line in ("4 rows a device x 2 accumulation steps x 1 process(es) = 8", "3 updates of 24 rows", "model sdpa"):
        assert line in shown


@pytest.mark.parametrize(
    ("values", "processes", "product", "warns"),
    [
        ({"device_batch": 4, "accumulation": 1}, 32, 128, False),
        ({"device_batch": 4, "accumulation": 2}, 32, 256, True),  # the README's values on 32 GPUs
        ({"device_batch": 4, "accumulation": None}, 32, 128, False),
        ({"device_batch": 4, "accumulation": None, "global_batch": 256}, 32, 256, False),  # said in so many words
    ],
)
def test_a_batch_that_is_not_the_papers_is_said(
    config: MakeConfig, values: dict[str, int | None], processes: int, product: int, warns: bool
) -> None:
    line = batch_line(config(**{"global_batch": None, **values}), processes)
    assert f"x {processes} process(es) = {product} rows per update" in line
    assert ("the paper's sft has 128 rows per update, not 256" in line) == warns


def test_packed_rows_are_counted_by_the_update(config: MakeConfig) -> None:
    line = batch_line(config(global_batch=None, packing="step"), 24)  # 128 is no multiple of 4 x 24, and need not be
    assert line == "batch: 128 rows per update of 24 process(es), packed (packing: step)"
    assert "not 96" in batch_line(config(global_batch=None, packing="step", accumulation=1), 24)

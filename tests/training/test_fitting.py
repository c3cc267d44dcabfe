"""fitting.py: the least recomputation that fits, by the numbers of the 7B model on GPUs of 80 and 141 GB."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sicog.data.batching import RunPlan
from sicog.estimates.arithmetic.flops import Work
from sicog.estimates.resources import with_planned_level
from sicog.model.configuration import SicogConfig
from sicog.model.lengths import RowLengths
from sicog.training import fitting
from sicog.training.config import TrainConfig
from sicog.training.fitting import Fit, choose_level, heaviest_work, with_chosen_level
from sicog.training.recompute import checkpoint_activations
from sicog.training.summary import how_line

ROOT = Path(__file__).parents[2]
A100, H200 = 79.2 * 2**30, 139.7 * 2**30
VIEW = (24, 24)


@pytest.fixture(scope="module")
def model() -> SicogConfig:
    return SicogConfig.from_dict(json.loads((ROOT / "recipes/configs/sicog-7b.json").read_text()))


def sft(**changes: Any) -> TrainConfig:
    given = {"out_dir": "out", "model": {"checkpoint": "m"}, "data": {"path": "d", "image_folder": "i"}, **changes}
    return TrainConfig(**{**yaml.safe_load((ROOT / "training_scripts/configs/sft.yaml").read_text()), **given})


def of_rows(n: int) -> Work:
    """Rows of 7 views and 500 tokens of text."""
    return Work((VIEW,) * 7 * n, 1008 * n, 525 * n, 500 * n)


def level(config: TrainConfig, model: SicogConfig, work: Work, available: float, devices: int = 8, **how: str) -> str:
    fit = choose_level(config, model, work, parallel=how.get("parallel", "zero2"), devices=devices, available=available)
    return fit.level


def test_the_level_follows_from_memory_batch_and_sharing(model: SicogConfig) -> None:
    config = sft()
    assert level(config, model, of_rows(4), A100) == "selective"
    assert level(config, model, of_rows(4), H200) == "none"
    assert level(config, model, of_rows(12), A100) == "full"
    assert level(config, model, of_rows(1), A100, devices=32) == "none"
    assert level(config, model, of_rows(4), A100, parallel="ddp") == "full"  # nothing fits: the least is taken
    assert level(config, model, of_rows(8), A100, devices=32) != level(config, model, of_rows(8), H200, devices=32)


def test_what_is_frozen_or_offloaded_leaves_room(model: SicogConfig) -> None:
    assert level(sft(stage="align", trainable=["projector"]), model, of_rows(4), A100, devices=1) == "none"
    assert level(sft(), model, of_rows(6), A100) == "full"
    assert level(sft(offload=True), model, of_rows(6), A100) == "selective"


def test_a_level_that_old_packages_refuse_is_passed_over(model: SicogConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sicog.training.config.older_package_message", lambda *_: ["too old"])
    assert level(sft(compile=True), model, of_rows(4), A100) == "full"
    assert level(sft(), model, of_rows(4), A100) == "selective"


def some_plan() -> tuple[RunPlan, RowLengths]:
    plan = RunPlan(np.arange(8), np.arange(0, 9, 2), accumulation=2, world_size=2, padded=False)
    tokens = np.array([900, 100, 500, 500, 1500, 1533, 300, 400])
    views = np.array([1, 0, 1, 1, 7, 7, 0, 1])
    return plan, RowLengths(tokens, tokens // 3, views, views * 576)


def test_the_heaviest_micro_batch_of_all_ranks_is_what_must_fit(model: SicogConfig) -> None:
    plan, lengths = some_plan()
    work = heaviest_work(plan, lengths, model, sft())
    assert (work.positions, work.supervised, work.views) == (3033, 500 + 511, (VIEW,) * 14)
    assert work.image_tokens == 14 * 144
    padded = heaviest_work(replace(plan, padded=True), lengths, model, sft())
    assert padded.positions == 2 * 1533


def test_the_choice_is_made_once_the_rows_are_known(model: SicogConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config, (plan, lengths) = sft(parallel="zero2"), some_plan()
    assert config.gradient_checkpointing == "auto"
    with pytest.raises(ValueError, match="has not been chosen yet"):
        checkpoint_activations(None, config.gradient_checkpointing)
    plain, fit = with_chosen_level(config, model, plan, lengths)
    assert plain.gradient_checkpointing == "none" and fit is None  # no GPU here
    monkeypatch.setattr(fitting, "_device_bytes", lambda: A100)
    chosen, fit = with_chosen_level(config, model, plan, lengths)
    assert fit is not None and fit.level == chosen.gradient_checkpointing == "full"  # two GPUs share 80 GB of states
    assert config.identity() == chosen.identity()
    assert "gradient checkpointing: full (auto: " in how_line(chosen, fit)
    named = sft(gradient_checkpointing="selective")
    assert with_chosen_level(named, model, plan, lengths) == (named, None)


def test_the_line_says_both_numbers() -> None:
    assert str(Fit("selective", 61.94 * 2**30, A100)) == "selective (auto: 61.9 of 79.2 GiB computed)"


def test_plans_choose_for_80_gb(model: SicogConfig) -> None:
    assert with_planned_level(sft(pack_tokens=8192), model, 8).gradient_checkpointing == "selective"
    assert with_planned_level(sft(gradient_checkpointing="none"), model, 8).gradient_checkpointing == "none"

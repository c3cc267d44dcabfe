"""Learning rates by part, what decays, and the optimizer in 8 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sicog.model import load_checkpoint
from sicog.training import optimizer
from sicog.training.config import TrainConfig
from sicog.training.optimizer import optimizer_name, parameter_groups
from sicog.training.parts import set_trainable
from sicog.training.train import train

MakeConfig = Callable[..., TrainConfig]


def test_groups_by_part_and_decay(config: MakeConfig, tiny_dir: Path) -> None:
    settings = config(learning_rates={"vision_tower": 1e-6, "projector": 5e-4}, weight_decay=0.1)
    model = load_checkpoint(tiny_dir)[0]
    set_trainable(model, settings.trainable)
    decaying = {name for name, _ in model.named_parameters() if name.endswith(".weight") and "norm" not in name}
    groups = parameter_groups(model, settings, decaying)
    assert [(group["part"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("language_model", 1e-3, 0.1),
        ("language_model", 1e-3, 0.0),
        ("vision_tower", 1e-6, 0.1),
        ("vision_tower", 1e-6, 0.0),
        ("projector", 5e-4, 0.1),
        ("projector", 5e-4, 0.0),
    ]
    grouped = [p for group in groups for p in group["params"]]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(grouped) == len(trained) == len({id(p) for p in grouped} & {id(p) for p in trained})
    norms = {id(p) for name, p in model.named_parameters() if name not in decaying}
    assert {id(p) for group in groups if not group["weight_decay"] for p in group["params"]} <= norms


def test_each_part_learns_at_its_rate_on_one_schedule(config: MakeConfig, tiny_dir: Path, tmp_path: Path) -> None:
    rates = {"vision_tower": 1e-12, "projector": 5e-3}
    run_dir = train(config(learning_rates=rates, max_steps=4, warmup_ratio=0.5))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    peaks = {"vision_tower": 1e-12, "projector": 5e-3, "language_model": 1e-3}
    for line in lines:
        assert line["learning_rate"] == line["learning_rate/language_model"]
        for part, peak in peaks.items():
            assert line[f"learning_rate/{part}"] == pytest.approx(line["learning_rate"] * peak / 1e-3)
    assert [line["learning_rate"] for line in lines] == pytest.approx([0, 5e-4, 1e-3, 5e-4])
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_dir, run_dir))
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    by_part = {part: max(v for name, v in moved.items() if name.startswith(part)) for part in ("vision", "res", "lang")}
    assert by_part["vision"] < 1e-7 < by_part["lang"] < by_part["res"]
    plain = train(config(out_dir=tmp_path / "plain", max_steps=1))
    assert "learning_rate/projector" not in (plain / "metrics.jsonl").read_text()


def test_the_optimizer_in_8_bits_needs_its_package(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert optimizer_name(config()) == "adamw_torch_fused"
    small = config(optimizer="adamw_8bit")
    with pytest.raises(
        ValueError, match="optimizer adamw_8bit needs the package bitsandbytes: pip install bitsandbytes"
    ):
        train(small)
    monkeypatch.setattr(optimizer.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert optimizer_name(small) == "adamw_bnb_8bit"

"""What the Trainer is told, the learning rates that come of it, gradient checkpointing, and both precisions."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy
from torch.utils.flop_counter import FlopCounterMode

from sicog.data.batching import RunPlan, plan_run
from sicog.generation.config import SampleConfig
from sicog.generation.sample import sample
from sicog.model import load_checkpoint
from sicog.model.kernels.choice import Checkpointing
from sicog.records import CandidateSet, Turn
from sicog.stages.storage import read_json, read_records
from sicog.training import train as training
from sicog.training.config import TrainConfig
from sicog.training.parts import set_trainable
from sicog.training.recompute import _keep_products, checkpoint_activations
from sicog.training.train import train
from sicog.training.trainer import SicogTrainer, trainer_arguments

MakeConfig = Callable[..., TrainConfig]


def plan(n_steps: int) -> RunPlan:
    return plan_run(np.ones(24, dtype=int), global_batch=8, device_batch=4, max_steps=n_steps, seed=0)


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_trainer_gets_what_the_config_says(config: MakeConfig) -> None:
    settings = config(
        learning_rate=3e-4,
        weight_decay=0.02,
        max_grad_norm=0.7,
        warmup_ratio=0.03,
        seed=7,
        save_steps=9,
        device_batch=4,
    )
    args = trainer_arguments(settings, plan(50))
    assert args.learning_rate == 3e-4
    assert args.weight_decay == 0.02
    assert args.max_grad_norm == 0.7
    assert args.warmup_steps == 2  # 3 % of 50, rounded up
    assert args.lr_scheduler_type == "cosine"
    assert args.max_steps == 50
    assert args.per_device_train_batch_size == 4
    assert args.gradient_accumulation_steps == 2
    assert args.optim == "adamw_torch_fused"
    assert args.seed == 7
    assert args.save_steps == 50  # the last; `SaveTimes` decides about the others
    assert args.dataloader_num_workers == 0
    assert args.bf16 is False and args.fp16 is False
    assert trainer_arguments(config(precision="bfloat16"), plan(1)).bf16 is True
    assert trainer_arguments(config(precision="auto"), plan(1)).bf16 is torch.cuda.is_available()


@pytest.mark.parametrize("level", ["none", "selective", "full"])
def test_the_trainer_switches_checkpointing_on(config: MakeConfig, tiny_dir: Path, level: str) -> None:
    model, processor = load_checkpoint(tiny_dir)
    SicogTrainer(model, processor, None, plan(1), config(gradient_checkpointing=level), [])  # type: ignore[arg-type]
    layers = [*model.vision_tower.encoder.layers, *model.language_model.model.layers]
    assert [layer.gradient_checkpointing for layer in layers] == [level != "none"] * 5


def test_learning_rates_are_a_cosine_after_a_warm_up(config: MakeConfig) -> None:
    n_steps, n_warm, peak = 6, 2, 1e-3
    lines = metrics(train(config(warmup_ratio=0.3, max_steps=n_steps, learning_rate=peak)))
    expected = [
        peak * (k / n_warm if k < n_warm else 0.5 * (1 + math.cos(math.pi * (k - n_warm) / (n_steps - n_warm))))
        for k in range(n_steps)
    ]
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def forwards(model: nn.Module) -> Counter[str]:
    """Counts how often the attention of each part runs from now on."""
    counts: Counter[str] = Counter()
    for part, layers in (("vision", model.vision_tower.encoder.layers), ("text", model.language_model.model.layers)):
        for layer in layers:
            layer.self_attn.register_forward_hook(lambda *_, part=part: counts.update([part]))
    return counts


@dataclass(frozen=True)
class Backward:
    """One row with an image, forward and backward."""

    forwards: Counter[str]
    flops: int
    loss: float
    gradients: dict[str, torch.Tensor]


def backward(
    tiny_dir: Path, trainable: list[str], level: Checkpointing, dtype: torch.dtype = torch.float32
) -> Backward:
    """What it cost, and the gradients."""
    model, processor = load_checkpoint(tiny_dir)
    set_trainable(model, trainable)
    checkpoint_activations(model, level)
    turns = [Turn(role="user", text="How many?", images_at=(0,)), Turn(role="assistant", text="two red circles " * 40)]
    batch = processor.collate([processor.encode(turns, [Image.new("RGB", (120, 80), (9, 200, 90))])])
    counts = forwards(model)
    model.train()
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(**batch).loss
        loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return Backward(counts, counter.get_total_flops(), loss.item(), gradients)


@pytest.mark.parametrize("level", ["selective", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trainable", [["projector"], ["vision_tower", "projector", "language_model"]])
def test_checkpointing_recomputes_and_changes_no_gradient(
    tiny_dir: Path, trainable: list[str], level: Checkpointing, dtype: torch.dtype
) -> None:
    plain, again = (backward(tiny_dir, trainable, kind, dtype) for kind in ("none", level))
    assert plain.forwards == {"vision": 2, "text": 2}
    # No gradient goes into a frozen vision tower, so it is not computed again; the language model is, up to the
    # projector below it.
    assert again.forwards == {"vision": 2 if trainable == ["projector"] else 4, "text": 4}
    if level == "selective":
        assert again.flops == plain.flops  # no product is made twice
    else:
        assert again.flops > 1.1 * plain.flops
    assert again.loss == plain.loss and again.gradients.keys() == plain.gradients.keys()
    assert all(torch.equal(again.gradients[name], plain.gradients[name]) for name in plain.gradients)
    assert any(name.startswith("resampler.") and bool(grad.any()) for name, grad in again.gradients.items())
    if trainable == ["projector"]:
        assert all(name.startswith("resampler.") for name in again.gradients)


@pytest.mark.parametrize("level", ["selective", "full"])
def test_a_run_with_checkpointing_is_the_run_without(config: MakeConfig, tmp_path: Path, level: str) -> None:
    """And the level may be changed in a run's folder: a run that ran out of memory goes on."""
    runs = [train(config(out_dir=tmp_path / on, gradient_checkpointing=on, max_steps=2)) for on in ("none", level)]
    assert metrics(runs[0]) == metrics(runs[1])
    first, second = (load_file(run / "model.safetensors") for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (runs[0] / "config.json").read_bytes() == (runs[1] / "config.json").read_bytes()
    assert train(config(out_dir=runs[0], gradient_checkpointing=level, max_steps=2)) == runs[0]


def test_bfloat16_on_a_cpu(config: MakeConfig, tmp_path: Path) -> None:
    lines = metrics(train(config(precision="bfloat16", max_steps=2)))
    plain = metrics(train(config(out_dir=tmp_path / "plain", max_steps=2)))
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in plain], rel=0.02)
    assert lines[0]["loss"] != plain[0]["loss"]
    assert {v.dtype for v in load_file(tmp_path / "run" / "model.safetensors").values()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_train_and_sample_on_a_gpu(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    run_dir = train(config(precision="auto", gradient_checkpointing="full", max_steps=2))
    assert read_json(run_dir / "run.json")["identity"]["precision"] == "bfloat16"
    assert all(math.isfinite(line["loss"]) for line in metrics(run_dir))
    rows = [{"id": f"row-{i}", "image": f"{i}.png"} for i in (1, 2, 3)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    values = {"checkpoint": run_dir, "input": tmp_path / "rows.json", "image_folder": data_dir / "images"}
    values |= {"task": "captioning", "out_dir": tmp_path / "out", "max_new_tokens": 8}
    folder = sample(SampleConfig.model_validate(values))
    manifest = read_json(folder / "manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"], manifest["failed"]) == (3, 3, {}, {})
    assert read_json(folder / "run.json")["identity"]["precision"] == "bfloat16"
    assert all(len(row.candidates) == 3 for row in read_records(folder, CandidateSet))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_normalising_in_the_model_changes_no_loss(
    config: MakeConfig, tiny_dir: Path, tmp_path: Path, precision: str
) -> None:
    parts = {"vision_tower": tiny_dir / "parts" / "vision", "language_model": tiny_dir / "parts" / "text"}
    losses, settings = {}, {"config": {"scale": 56, "query_grid": 2, "max_slices": 4}}
    for where in ("host", "device"):
        image = {"normalize_on": where, "long_side": 100, "max_patches": 500}
        run = config(
            stage="align",  # begins without a projector
            out_dir=tmp_path / where,
            model={**parts, **settings, "image": image},
            max_steps=2,
            precision=precision,
            workers=1,
        )
        losses[where] = [line["loss"] for line in metrics(train(run))]
        processor = load_checkpoint(tmp_path / where)[1].image_processor
        assert {name: getattr(processor, name) for name in image} == image  # sampling has them from the checkpoint
        assert processor.prepare(Image.new("RGB", (60, 60))).pixels.dtype == (
            "uint8" if where == "device" else "float32"
        )
    assert len(losses["host"]) == 2 and losses["device"] == losses["host"]


def test_a_gpu_is_handed_uint8_whatever_the_checkpoint_says(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses are the same, what was measured counts, and the saved processor keeps its setting."""
    kinds, step = [], SicogTrainer.training_step

    def noted(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        kinds.append(inputs["pixel_values"].dtype)
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SicogTrainer, "training_step", noted)
    runs = []
    for name in ("host", "device"):
        runs.append(train(config(out_dir=tmp_path / name, max_steps=1, packing="step")))
        monkeypatch.setattr(training, "_for_loading", partial(training._for_loading, on_gpu=True))
    assert set(kinds) == {torch.float32, torch.uint8}
    assert metrics(runs[0])[0]["loss"] == metrics(runs[1])[0]["loss"]
    assert load_checkpoint(runs[1])[1].image_processor.normalize_on == "host"


@pytest.mark.parametrize(
    ("name", "is_kept"),
    [
        ("torch_attn::_varlen_attn", True),
        ("flash_attn::_flash_attn_varlen_forward", True),
        ("aten::_scaled_dot_product_flash_attention", True),
        ("aten::addmm", True),
        ("aten::silu", False),
        ("aten::mul.Tensor", False),
    ],
)
def test_selective_checkpointing_keeps_attention_and_products(name: str, is_kept: bool) -> None:
    """Of every kernel that a model may use; those of CUDA cannot run here."""
    wanted = CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
    assert _keep_products(None, name) is wanted


def test_torch_s_own_kernel_has_the_name_that_is_kept() -> None:
    operator = torch.ops.torch_attn._varlen_attn.default
    assert _keep_products(None, operator) is CheckpointPolicy.MUST_SAVE

"""On a CUDA device: packed rows in bfloat16 against padded ones in float32, and whole trainings with each option."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model.kernels.test_packed import MIXED, TEXT, packed_batch, padded_batch
from model.test_modeling import tiny_model
from preference_pairs import dpo_values

from sicog.model.kernels.document_attention import attend_within_documents, has_varlen
from sicog.training.config import TrainConfig
from sicog.training.recompute import checkpoint_activations
from sicog.training.train import train
from sicog.training.trainer import SicogTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
MakeConfig = Callable[..., TrainConfig]


def on_device(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.to(DEVICE) for name, x in batch.items()}


def loss_and_norm(model: Any, batch: dict[str, torch.Tensor], *, half: bool = False) -> tuple[float, float]:
    """The loss and the norm of all gradients."""
    model.zero_grad()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
        loss = model(**on_device(batch), num_items_in_batch=5).loss
    loss.backward()
    grads = [p.grad.float().square().sum() for p in model.parameters() if p.grad is not None]
    return loss.item(), float(torch.stack(grads).sum().sqrt())


def switch(model: Any, way: str) -> None:
    if way == "flash":
        pytest.importorskip("flash_attn")
        model.set_attn_implementation({"text_config": "flash_attention_2", "vision_config": "flash_attention_2"})
    if way == "own":
        attend_within_documents(model)


@pytest.mark.parametrize("weights", ["bfloat16", "autocast"])
@pytest.mark.parametrize("rows", [MIXED, TEXT], ids=["images", "text only"])
@pytest.mark.parametrize("way", ["own", "flash", "none"])
def test_packed_rows_in_half_precision_are_near_padded_ones_in_float32(way: str, rows: Any, weights: str) -> None:
    model = tiny_model().train().to(DEVICE)
    wanted = loss_and_norm(model, padded_batch(rows))
    model = model.to(torch.bfloat16) if weights == "bfloat16" else model
    switch(model, way)
    found = loss_and_norm(model, packed_batch(rows), half=weights == "autocast")
    assert found == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("level", ["none", "selective", "full"])
def test_the_kernel_runs_once_a_layer_unless_all_is_computed_again(monkeypatch: Any, level: Any) -> None:
    model, calls = tiny_model().train().to(DEVICE, torch.bfloat16), []
    assert has_varlen(model.get_input_embeddings().weight)
    kernel = torch.ops.torch_attn._varlen_attn

    class Counted(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket is kernel:
                calls.append(func)
            return func(*args, **(kwargs or {}))

    attend_within_documents(model)
    checkpoint_activations(model, level)
    layers = model.config.text_config.num_hidden_layers + model.vision_tower.n_run
    with Counted():
        loss_and_norm(model, packed_batch(MIXED))
    assert len(calls) == layers * (2 if level == "full" else 1)


def losses_of(run_dir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


OPTIONS: dict[str, dict[str, Any]] = {
    "packed": {},
    "padded": {"packing": "off"},
    "selective": {"gradient_checkpointing": "selective"},
    "auto": {"gradient_checkpointing": "auto"},
    "compiled": {"compile": True},
    "compiled, selective": {"compile": True, "gradient_checkpointing": "selective"},
    "adapters": {"lora": {"r": 4}},
    "projector": {"trainable": ["projector"]},
    "liger": {"kernels": "liger"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_training_with_each_option_begins_where_float32_does(config: MakeConfig, tmp_path: Path, option: str) -> None:
    changes = OPTIONS[option]
    if option == "liger":
        pytest.importorskip("liger_kernel")
    plain = losses_of(train(config(out_dir=tmp_path / "plain", max_steps=2, packing="off")))
    half = {"precision": "bfloat16", "packing": "step", "max_steps": 2, **changes}
    found = losses_of(train(config(out_dir=tmp_path / "half", check_memory=True, **half)))
    assert found[0] == pytest.approx(plain[0], rel=0.03) and all(map(math.isfinite, found))
    assert found[1] < found[0] or option == "projector"


@pytest.mark.parametrize("parallel", ["zero2", "zero3"])
def test_deepspeeds_engine_begins_where_float32_does(config: MakeConfig, tmp_path: Path, parallel: str) -> None:
    pytest.importorskip("deepspeed")
    plain = losses_of(train(config(out_dir=tmp_path / "plain", max_steps=2, packing="off")))
    sharded = config(out_dir=tmp_path / parallel, max_steps=2, precision="bfloat16", packing="step", parallel=parallel)
    (tmp_path / "config.yaml").write_text(sharded.model_dump_json())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "-m", "sicog", "train"]
    done = subprocess.run([*launcher, str(tmp_path / "config.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert losses_of(tmp_path / parallel)[0] == pytest.approx(plain[0], rel=0.03)


def test_preferences_begin_at_ln_2(config: MakeConfig, tmp_path: Path, data_dir: Path) -> None:
    values = dpo_values(data_dir, tmp_path / "pairs")
    run = train(config(**{**values, "precision": "bfloat16", "packing": "step", "max_steps": 2}))
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["dpo_loss"] == pytest.approx(math.log(2), abs=0.02)


def test_a_micro_batch_waits_for_nothing(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the look at the losses of an update."""
    step, seen = SicogTrainer.training_step, 0

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        torch.cuda.set_sync_debug_mode("error" if seen > 12 and not self.accelerator.sync_gradients else "default")
        try:
            return step(self, *args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(SicogTrainer, "training_step", watched)
    train(config(precision="bfloat16", packing="epoch", pack_tokens=200, epochs=4))
    assert seen > 24

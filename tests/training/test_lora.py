"""Adapters: what is trained, what is saved, that a stopped run goes on to the bit, and that merging loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from modes import unreadable
from peft import PeftModel
from safetensors.torch import load_file

from sicog.model import load_checkpoint
from sicog.stages.storage import read_json
from sicog.training.config import LoraSettings, TrainConfig
from sicog.training.lora import add_adapters, merge_lora
from sicog.training.parts import set_trainable
from sicog.training.train import train

MakeConfig = Callable[..., TrainConfig]
LORA = {"r": 4, "alpha": 8, "dropout": 0.1}
PARTS = ["projector", "language_model"]


@pytest.fixture
def batch(tiny_dir: Path) -> dict[str, torch.Tensor]:
    processor = load_checkpoint(tiny_dir)[1]
    ids = processor.tokenizer.encode("There is a large red circle to the left of a small blue square.")
    return {"input_ids": torch.tensor([ids])}


def test_the_whole_life_of_an_adapter(
    config: MakeConfig, tiny_dir: Path, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    """Trained, stopped and gone on from to the bit; merged in the run, by PEFT and by merge-lora into the same."""
    settings = {"lora": LORA, "trainable": PARTS, "max_steps": 4, "save_steps": 2, "keep_checkpoints": True}
    run = train(config(**settings, out_dir=tmp_path / "whole"))
    again = tmp_path / "again"
    train(config(**settings, out_dir=again))
    # As after a kill in the last update.
    for name in ("manifest.json", "model.safetensors", "checkpoint-4/complete.json"):
        (again / name).unlink()
    train(config(**settings, out_dir=again))
    for name in ("metrics.jsonl", "model.safetensors", "adapter/adapter_model.safetensors"):
        assert (again / name).read_bytes() == (run / name).read_bytes(), name

    base, merged = (load_file(folder / "model.safetensors") for folder in (tiny_dir, run))
    assert base.keys() == merged.keys()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert {name.split(".")[0] for name in changed} == {"resampler", "language_model"}
    adapted = {name for name in changed if name.startswith("language_model")}
    assert len(adapted) == 2 * 7 and all(name.endswith("_proj.weight") for name in adapted)
    assert "adapter/adapter_model.safetensors" in read_json(run / "manifest.json")["files"]
    assert read_json(run / "adapter" / "adapter_config.json")["base_model_name_or_path"] is None

    model = load_checkpoint(run)[0]
    peft_model = PeftModel.from_pretrained(load_checkpoint(tiny_dir)[0], str(run / "adapter")).eval()
    torch.testing.assert_close(model(**batch).logits, peft_model(**batch).logits)
    torch.testing.assert_close(model.resampler.query, peft_model.base_model.model.resampler.query)
    for source, base_dir in ((run, None), (run / "adapter", tiny_dir), (again / "checkpoint-2", None)):
        target = tmp_path / f"merged-{source.name}"
        merge_lora(source, target, base=base_dir)
        expected = load_file(
            run / "model.safetensors" if source.name != "checkpoint-2" else source / "model.safetensors"
        )
        found = load_file(target / "model.safetensors")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, msg=name)
        load_checkpoint(target)
    assert unreadable(tmp_path) == []


def test_only_adapters_and_whole_parts_are_trained(tiny_dir: Path) -> None:
    model = load_checkpoint(tiny_dir)[0]
    add_adapters(model, LoraSettings(r=2, targets=("q_proj",)), "float32")
    set_trainable(model, PARTS)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    own = {name for name in names if name.startswith("language_model")}
    assert len(own) == 2 * 2 and all(".q_proj.lora_" in name for name in own)
    assert {name.split(".")[0] for name in names - own} == {"resampler"}
    set_trainable(model, ["projector"])
    assert not any("lora" in name for name, p in model.named_parameters() if p.requires_grad)


def test_frozen_layers_in_the_precision_of_computation_give_the_same(
    tiny_dir: Path, batch: dict[str, torch.Tensor]
) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        model = load_checkpoint(tiny_dir)[0]
        torch.manual_seed(0)
        add_adapters(model, LoraSettings(r=2), precision)  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(model(**batch, labels=batch["input_ids"]).loss)
    dtypes = {p.dtype for name, p in model.named_parameters() if ".base_layer." in name}
    assert dtypes == {torch.bfloat16} and model.get_output_embeddings().weight.dtype == torch.float32
    assert torch.equal(*losses)


def test_mistakes_are_named(config: MakeConfig, tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no linear layer 'qproj'; the blocks have down_proj"):
        train(config(lora={**LORA, "targets": ["qproj"]}))
    with pytest.raises(ValueError, match="holds no adapter_config.json"):
        merge_lora(tiny_dir, tmp_path / "out")
    with pytest.raises(ValueError, match="exists. Give a new folder"):
        merge_lora(tiny_dir, tmp_path)
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="name it with --base"):
        merge_lora(tmp_path / "lone", tmp_path / "out")

"""A damaged or incomplete checkpoint, part or projector is refused by name, and nothing is drawn in its place."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SCALE

from sicog.model import load_checkpoint, load_parts
from sicog.model.checkpoints import load_projector

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_dir, tmp_path):
    return shutil.copytree(tiny_dir, tmp_path / "copy")


def load(folder):
    return load_parts(folder / "parts" / "vision", folder / "parts" / "text", scale=SCALE, query_grid=2)


def cut(file, n=3000):
    file.write_bytes(file.read_bytes()[:n])


def change(file, tensor, value=None):
    """Remove the tensors with `tensor` in their names, or take their last row."""
    weights = load_file(file)
    chosen = {name for name in weights if tensor in name}
    assert chosen
    kept = {n: v[:-1].clone() if n in chosen else v for n, v in weights.items() if value == "short" or n not in chosen}
    save_file(kept, file, metadata={"format": "pt"})


def as_bin(file):
    torch.save(load_file(file), file.parent / "pytorch_model.bin")
    file.unlink()
    return file.parent / "pytorch_model.bin"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / WEIGHTS).unlink(), "copy: .*no file named model.safetensors"),
        (lambda f: cut(f / WEIGHTS), "copy/model.safetensors: cannot be read, damaged"),
        (lambda f: cut(as_bin(f / WEIGHTS)), "copy/pytorch_model.bin: cannot be read, damaged"),
        (lambda f: (f / "processor_config.json").unlink(), "copy is incomplete: processor_config.json missing"),
        (lambda f: (f / "tokenizer.json").unlink(), "copy is incomplete: tokenizer.json missing"),
        (lambda f: cut(f / "processor_config.json", 50), "copy, its tokenizer or processor: .*processor_config.json"),
        (lambda f: cut(f / "tokenizer.json", 500), "copy, its tokenizer or processor: .*damaged"),
        (lambda f: cut(f / "config.json", 50), "copy/config.json is not a JSON object"),
        (lambda f: change(f / WEIGHTS, "resampler.query", "short"), r"resampler.query: \(3, 32\) instead of \(4, 32\)"),
        (lambda f: change(f / WEIGHTS, "resampler."), "13 tensors are missing: resampler.* and 5 more"),
        (lambda f: change(f / WEIGHTS, "tower.encoder.layers.0.mlp.fc1.bias"), "missing: vision_tower.encoder.layers"),
        (lambda f: change(f / WEIGHTS, "model.layers.1.mlp.up_proj"), "missing: language_model.model.layers.1.mlp.up"),
        (lambda f: change(f / WEIGHTS, "lm_head"), "missing: language_model.lm_head.weight"),
    ],
)
def test_a_damaged_checkpoint_is_named(folder, damage, words):
    damage(folder)
    with pytest.raises(ValueError, match=words):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "text" / WEIGHTS).unlink(), "parts/text: .*no file named model.safetensors"),
        (lambda f: cut(f / "vision" / WEIGHTS), "parts/vision/model.safetensors: cannot be read, damaged"),
        (lambda f: change(f / "vision" / WEIGHTS, "layers.0.mlp.fc1.bias"), "parts/vision: .*layers.0.mlp.fc1.bias"),
        (lambda f: change(f / "vision" / WEIGHTS, "post_layernorm"), "parts/vision: .*2 tensors are missing"),
        (lambda f: change(f / "vision" / WEIGHTS, "pre_layrnorm.bias", "short"), r"pre_layrnorm.bias: \(31,\) instead"),
        (lambda f: change(f / "text" / WEIGHTS, "layers.1.mlp.up_proj"), "parts/text: .*layers.1.mlp.up_proj"),
        (lambda f: change(f / "text" / WEIGHTS, "lm_head"), "parts/text: .*lm_head.weight"),
        (lambda f: (f / "text" / "tokenizer.json").unlink(), "parts/text: the tokenizer has no vocabulary"),
    ],
)
def test_a_damaged_part_is_named(folder, damage, words):
    damage(folder / "parts")
    with pytest.raises(ValueError, match=words):
        load(folder)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_projector_that_would_run_something_is_refused(folder, tmp_path, zipped):
    model, _ = load_checkpoint(folder)
    weights = {f"resampler.{name}": value for name, value in model.resampler.state_dict().items()}
    file = tmp_path / "mm_projector.bin"
    torch.save({**weights, "more": Bomb(tmp_path / "executed")}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="mm_projector.bin: holds other objects than tensors"):
        load_projector(model, file)
    assert not (tmp_path / "executed").exists()


def test_a_damaged_projector_is_named(folder, tmp_path):
    model, _ = load_checkpoint(folder)
    weights = {f"resampler.{name}": value for name, value in model.resampler.state_dict().items()}
    whole = {"cut.bin": tmp_path / "cut.bin", "cut.safetensors": tmp_path / "cut.safetensors"}
    torch.save(weights, whole["cut.bin"])
    save_file(weights, whole["cut.safetensors"])
    for name, file in whole.items():
        for n in (2000, 10, 0):
            cut(file, n)
            with pytest.raises(ValueError, match=f"{name}: cannot be read, damaged"):
                load_projector(model, file)
    for value in ([1, 2], {"resampler.query": 3}):
        torch.save(value, tmp_path / "other.bin")
        with pytest.raises(ValueError, match="other.bin does not hold a table of tensors"):
            load_projector(model, tmp_path / "other.bin")
    (tmp_path / "page.bin").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page.bin: holds other objects"):
        load_projector(model, tmp_path / "page.bin")

"""Parts are trained by name; what never runs is never trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from sicog.model import SicogForConditionalGeneration, load_checkpoint
from sicog.training.parts import set_trainable


@pytest.fixture
def model(tiny_dir: Path) -> SicogForConditionalGeneration:
    return load_checkpoint(tiny_dir)[0]


def trained(model: SicogForConditionalGeneration) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("part", "prefix"),
    [("vision_tower", "vision_tower."), ("projector", "resampler."), ("language_model", "language_model.")],
)
def test_one_part_alone(model: SicogForConditionalGeneration, part: str, prefix: str) -> None:
    set_trainable(model, [part])
    assert trained(model) and all(name.startswith(prefix) for name in trained(model))


def test_the_last_vision_layer_stays_frozen(model: SicogForConditionalGeneration) -> None:
    set_trainable(model, ["vision_tower", "projector", "language_model"])
    names = trained(model)
    assert "vision_tower.encoder.layers.1.mlp.fc1.weight" in names
    assert not any(name.startswith(("vision_tower.encoder.layers.2", "vision_tower.post_layernorm")) for name in names)


def test_an_unknown_part_is_an_error(model: SicogForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="unknown parts to train: head"):
        set_trainable(model, ["head"])

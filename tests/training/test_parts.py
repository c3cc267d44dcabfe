"""Parts are trained by name; what never runs is never trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sicog.model import SicogForConditionalGeneration, load_checkpoint
from sicog.training.parts import drop_features, set_trainable


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


def test_features_are_dropped_in_training_alone(model: SicogForConditionalGeneration) -> None:
    features, sizes = torch.randn(12, model.config.vision_config.hidden_size), torch.tensor([[3, 4]])
    whole = model.resampler.eval()(features, sizes)
    drop_features(model, 0.25)
    assert torch.equal(model.resampler(features, sizes), whole)
    shown = model.resampler.train()(features, sizes)
    kept = shown != 0
    assert 0.6 < kept.float().mean() < 0.9
    assert torch.allclose(shown[kept], (whole / 0.75)[kept])

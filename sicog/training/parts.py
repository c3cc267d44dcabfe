"""Select the parts of the model to train, by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from sicog.model.part_names import PARTS
from sicog.training.lora import freeze_except_adapters

if TYPE_CHECKING:
    from torch import nn

    from sicog.model.modeling import SicogForConditionalGeneration


def set_trainable(model: SicogForConditionalGeneration, trainable: Collection[str]) -> None:
    """Train the named parts and freeze the others. Layers of the vision tower that never run stay frozen."""
    if unknown := set(trainable) - set(PARTS):
        raise ValueError(f"unknown parts to train: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    modules = parts(model)
    for name, module in modules.items():
        module.requires_grad_(name in trainable)
    freeze_except_adapters(model.language_model)
    model.vision_tower.freeze_unused()


def drop_features(model: SicogForConditionalGeneration, share: float) -> None:
    """In training, zero this share of the image features for the language model, and scale the rest by
    1 / (1 - share)."""
    from torch.nn import functional

    model.resampler.register_forward_hook(
        lambda module, _inputs, features_VQE: functional.dropout(features_VQE, share, module.training)
    )


def parts(model: SicogForConditionalGeneration) -> dict[str, nn.Module]:
    """The model's parts by name."""
    return {"vision_tower": model.vision_tower, "projector": model.resampler, "language_model": model.language_model}


def size(parameter: nn.Parameter) -> int:
    """Number of elements of the whole parameter, also if ZeRO-3 keeps only a shard here."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))

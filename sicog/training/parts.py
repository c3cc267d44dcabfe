"""Which parts of the model are trained, by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from sicog.training.config import PARTS
from sicog.training.lora import freeze_adapted

if TYPE_CHECKING:
    from torch import nn

    from sicog.model.modeling import SicogForConditionalGeneration


def set_trainable(model: SicogForConditionalGeneration, trainable: Collection[str]) -> None:
    """Train the named parts and freeze the others; layers of the vision tower that never run stay frozen."""
    if unknown := set(trainable) - set(PARTS):
        raise ValueError(f"unknown parts to train: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    modules = parts(model)
    for name, module in modules.items():
        module.requires_grad_(name in trainable)
    freeze_adapted(model.language_model)
    model.vision_tower.freeze_unused()


def drop_features(model: SicogForConditionalGeneration, share: float) -> None:
    """In training, set this share of the numbers that the language model is shown of images to 0, and scale the rest
    by 1 / (1 - share)."""
    from torch.nn import functional

    model.resampler.register_forward_hook(
        lambda module, _inputs, features_VQE: functional.dropout(features_VQE, share, module.training)
    )


def parts(model: SicogForConditionalGeneration) -> dict[str, nn.Module]:
    """The model's parts by name."""
    return {"vision_tower": model.vision_tower, "projector": model.resampler, "language_model": model.language_model}


def size(parameter: nn.Parameter) -> int:
    """Elements of the whole parameter, also where ZeRO-3 keeps a shard of it here."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))

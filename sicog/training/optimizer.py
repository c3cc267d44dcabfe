"""The optimizer and its groups: each part has its learning rate, and norms and biases have no weight decay."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from sicog.training.config import TrainConfig
from sicog.training.parts import parts

if TYPE_CHECKING:
    from sicog.model.modeling import SicogForConditionalGeneration


def optimizer_name(config: TrainConfig) -> str:
    """The Trainer's name of the optimizer. Raises `ValueError` if it cannot run here."""
    if config.optimizer == "adamw":
        return "adamw_torch_fused"
    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise ValueError("optimizer 'adamw_8bit' needs the package bitsandbytes and a CUDA device. Use 'adamw'")
    return "adamw_bnb_8bit"


def parameter_groups(
    model: SicogForConditionalGeneration, config: TrainConfig, decaying: Collection[str]
) -> list[dict[str, Any]]:
    """The trained parameters by part and by weight decay. decaying: the names of those with weight decay.

    Parts with the config's `learning_rate` come first, because the Trainer logs the rate of the first group.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = []
    for part, module in sorted(parts(model).items(), key=lambda item: item[0] in config.learning_rates):
        trained = [p for p in module.parameters() if p.requires_grad]
        for decay in (True, False):
            chosen = [p for p in trained if (names[p] in decaying) == decay]
            group = {
                "part": part,
                "params": chosen,
                "lr": config.learning_rates.get(part, config.learning_rate),  # type: ignore[call-overload]
                "weight_decay": config.weight_decay if decay else 0.0,
            }
            groups += [group] if chosen else []
    return groups


def rates_of(groups: Collection[dict[str, Any]]) -> dict[str, float]:
    """The learning rate of each part."""
    return {group["part"]: group["lr"] for group in groups}

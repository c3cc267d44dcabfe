"""Load the initial model of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sicog.training.config import ModelSource

if TYPE_CHECKING:
    from sicog.model.modeling import SicogForConditionalGeneration
    from sicog.model.processing import SicogProcessor


def load_model(source: ModelSource) -> tuple[SicogForConditionalGeneration, SicogProcessor]:
    """The model in float32 and its processor, from a checkpoint or from parts."""
    import torch

    from sicog.model import SicogConfig, load_checkpoint, load_parts

    if source.checkpoint is not None:
        return load_checkpoint(source.checkpoint, dtype=torch.float32)
    assert source.vision_tower is not None and source.language_model is not None  # the config has checked it
    known = set(SicogConfig.__annotations__) - {"vision_config", "text_config"}
    if unknown := sorted(source.config.keys() - known):
        raise ValueError(f"unknown key model.config.{unknown[0]}; known: {', '.join(sorted(known))}")
    return load_parts(
        source.vision_tower,
        source.language_model,
        projector=source.projector,
        turn_format=source.turn_format or "chatml",
        image=source.image.model_dump(),
        **source.config,
    )

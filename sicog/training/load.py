"""Load the initial model of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sicog.training.config import ModelSource, TrainConfig

if TYPE_CHECKING:
    from sicog.model.modeling import SicogForConditionalGeneration
    from sicog.model.processing import SicogProcessor


Weights = Literal["float32", "bfloat16"]


def weights_of(config: TrainConfig) -> Weights:
    """The dtype that a training keeps its weights in.

    DeepSpeed's bfloat16 engine rounds them first, and begins its float32 copies with the rounded values. So they are
    read in bfloat16: half the memory of the host, in each of its processes.
    """
    return "bfloat16" if config.parallel in ("zero2", "zero3") and config.precision == "bfloat16" else "float32"


def load_model(
    source: ModelSource, weights: Weights = "float32"
) -> tuple[SicogForConditionalGeneration, SicogProcessor]:
    """The model and its processor, from a checkpoint or from parts."""
    from sicog.model import SicogConfig, load_checkpoint, load_parts

    if source.checkpoint is not None:
        return load_checkpoint(source.checkpoint, dtype=weights)
    assert source.vision_tower is not None and source.language_model is not None  # the config has checked it
    known = set(SicogConfig.__annotations__) - {"vision_config", "text_config"}
    if unknown := sorted(source.config.keys() - known):
        raise ValueError(f"unknown key model.config.{unknown[0]}; known: {', '.join(sorted(known))}")
    return load_parts(
        source.vision_tower,
        source.language_model,
        projector=source.projector,
        dtype=weights,
        turn_format=source.turn_format or "chatml",
        image=source.image.model_dump(),
        **source.config,
    )

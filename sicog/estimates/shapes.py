"""Shapes of models, read without weights: of a config file, a checkpoint, or a model that a recipe will train."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sicog.config import load_yaml
from sicog.model.hub import find_model, local_model
from sicog.runs.recipe import Recipe
from sicog.training.config import ModelSource, TrainConfig

if TYPE_CHECKING:  # Transformers, which a plan without shapes does not need
    from sicog.model.configuration import SicogConfig
    from sicog.model.processing import SicogProcessor


class Shapes:
    """Shapes of the models in a recipe: from their files, from the step that will write them, or as assumed."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.trained: Mapping[Path, ModelSource] = {
            step.folder: step.config.model for step in recipe.steps if isinstance(step.config, TrainConfig)
        }

    def of_checkpoint(self, path: Path) -> SicogConfig | None:
        """Shapes of a checkpoint that exists or that a step will write."""
        if (path / "config.json").is_file():
            return read_config(path)
        return self.of_source(self.trained[path]) if path in self.trained else None

    def of_source(self, source: ModelSource) -> SicogConfig | None:
        """Shapes of a training's model; None where they are unknown."""
        if source.checkpoint is not None:
            return self.of_checkpoint(source.checkpoint)
        assert source.vision_tower is not None and source.language_model is not None
        parts = [find_model(part) for part in (source.vision_tower, source.language_model)]
        if all(parts):
            found = dict(zip(("vision_tower", "language_model"), parts, strict=True))
            return read_shapes(source.model_copy(update=found))[0]
        inside = any(self.recipe.run_dir in part.parents for part in (source.vision_tower, source.language_model))
        return None if inside else self._assumed_config(source)

    def _assumed_config(self, source: ModelSource) -> SicogConfig | None:
        file = self.recipe.assume.model
        if file is None:
            return None
        from sicog.model.configuration import SicogConfig

        config: SicogConfig = SicogConfig.from_dict(json.loads(file.read_bytes()) | source.config)
        return config


def read_shapes(source: ModelSource) -> tuple[SicogConfig, SicogProcessor]:
    """The model's configuration and its processor, from files that hold no weights."""
    from transformers import AutoConfig, AutoTokenizer

    from sicog.model.checkpoints import clip_vision_config, read_processor, token_ids
    from sicog.model.configuration import SicogConfig
    from sicog.model.processing import SicogProcessor

    if source.checkpoint is not None:
        return read_config(source.checkpoint), read_processor(str(source.checkpoint))
    vision = clip_vision_config(str(source.vision_tower))
    assert source.language_model is not None  # the config says so
    language_model = local_model(source.language_model, "model.language_model")
    text, tokenizer = AutoConfig.from_pretrained(language_model), AutoTokenizer.from_pretrained(language_model)
    fields = {**token_ids(tokenizer, text.vocab_size), **source.config}
    config = SicogConfig(vision_config=vision, text_config=text, **fields)
    image = source.image.model_dump()
    return config, SicogProcessor.from_config(config, tokenizer, turn_format=source.turn_format or "chatml", **image)


def read_config(path: Path) -> SicogConfig:
    """The config of a checkpoint folder, or of a JSON or YAML file with fields of `SicogConfig`."""
    from sicog.model.configuration import SicogConfig, config_errors

    file = path / "config.json" if path.is_dir() else path
    fields = _json(file) if file.suffix == ".json" else load_yaml(file)
    known = {field.name for field in dataclasses.fields(SicogConfig)} | {"model_type"}
    if "vision_config" not in fields or "text_config" not in fields:
        raise ValueError(f"{file} must hold vision_config and text_config, as a checkpoint's config.json does")
    if not path.is_dir() and (unknown := sorted(fields.keys() - known)):
        raise ValueError(f"{file}: unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    with config_errors(str(file)):
        config: SicogConfig = SicogConfig.from_dict(fields)
    return config


def _json(file: Path) -> dict[str, Any]:
    # Not read as YAML, which takes 1e-05 for a text.
    try:
        fields = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{file}: no such config file") from None
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None
    return fields if isinstance(fields, dict) else {}

"""Load a whole checkpoint, or put a model together from a CLIP vision model, a language model and a projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel, GenerationConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sicog.model.configuration import SicogConfig
from sicog.model.mlp_projector import MlpProjector
from sicog.model.modeling import SicogForConditionalGeneration
from sicog.model.processing import SicogProcessor
from sicog.model.resampler import Resampler
from sicog.model.vision_tower import VisionTower
from sicog.model.weights import UNREADABLE, pretrained, quiet, tensors, unreadable

_CLIP_TYPES = ("clip", "clip_vision_model")
_PROCESSOR_FILES = ("processor_config.json", "tokenizer.json", "tokenizer_config.json")
_PROJECTOR_PREFIXES = ("resampler.", "mm_projector.")


def load_checkpoint(
    path: str | Path, *, dtype: torch.dtype | str = "auto", device: str | torch.device | None = None
) -> tuple[SicogForConditionalGeneration, SicogProcessor]:
    """A model in eval mode and its processor, from a folder or a hub id.

    dtype: "auto" keeps the checkpoint's. Raises `ValueError` when the path holds no checkpoint, one of another
    architecture, a damaged or incomplete one, or a processor that does not agree with the model.
    """
    name = str(path)
    if (model_type := read_config_dict(name).get("model_type")) != SicogConfig.model_type:
        raise ValueError(
            f"{name} is a checkpoint of type {model_type!r}, not {SicogConfig.model_type!r}; "
            f"to build on a language model, give it as a part (vision_tower, language_model, projector)"
        )
    model = pretrained(SicogForConditionalGeneration, name, dtype=dtype)
    processor = read_processor(name)
    check_agreement(name, model.config, processor)
    return model.to(device).eval() if device is not None else model.eval(), processor


def load_parts(
    vision_tower: str | Path,
    language_model: str | Path,
    *,
    projector: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    turn_format: str = "chatml",
    **config_overrides: Any,
) -> tuple[SicogForConditionalGeneration, SicogProcessor]:
    """A new model from ordinary folders or hub ids, and the processor that goes with it.

    vision_tower: a CLIP model or CLIP vision model. language_model: a causal language model with its tokenizer.
    projector: a file or folder with projector weights (see `load_projector`); None draws them at random.
    dtype: float32 when None. turn_format: how turns are written, chatml or llama3. config_overrides: fields of
    `SicogConfig`; the separators are the tokenizer's own newline and comma, and the placeholder is the last unused row
    of the embedding table, unless overridden.
    """
    vision_name, text_name = str(vision_tower), str(language_model)
    vision_config = clip_vision_config(vision_name)
    _require_causal(text_name)
    target = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
    tokenizer = _read(AutoTokenizer, text_name)
    text = pretrained(AutoModelForCausalLM, text_name, dtype=target)
    fields = {**token_ids(tokenizer, text.config.vocab_size), **config_overrides}
    config = SicogConfig(vision_config=vision_config, text_config=text.config, dtype=target, **fields)
    with torch.device("meta"):
        model = SicogForConditionalGeneration(config)
    model.language_model = text
    with quiet():  # a whole CLIP checkpoint also holds a text model: its weights are expected to be left over
        clip = pretrained(CLIPVisionModel, vision_name, config=vision_config, dtype=target)
    model.vision_tower = VisionTower(config.vision_config, config.vision_select_layer).to(target)  # type: ignore[arg-type]
    model.vision_tower.load_state_dict(clip.state_dict())
    model.resampler = _fresh_projector(model.resampler, target)
    if projector is not None:
        load_projector(model, projector)
    processor = SicogProcessor.from_config(config, tokenizer, turn_format=turn_format)
    model.generation_config = generation_config(text.generation_config.eos_token_id, processor)
    return model.eval(), processor


def token_ids(tokenizer: Any, vocab_size: int) -> dict[str, int]:
    """Separators and placeholder for a tokenizer and an embedding table of `vocab_size` rows."""
    if not tokenizer.encode("\n,", add_special_tokens=False):
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no vocabulary; is its tokenizer.json missing?")
    return {
        "row_separator_id": tokenizer.encode("\n", add_special_tokens=False)[-1],
        "slice_separator_id": tokenizer.encode(",", add_special_tokens=False)[-1],
        # Without a spare row the placeholder lies just above the table: it is masked before the look-up.
        "image_token_id": vocab_size - 1 if len(tokenizer) < vocab_size else max(vocab_size, len(tokenizer)),
    }


def load_projector(model: SicogForConditionalGeneration, path: str | Path) -> None:
    """Load projector weights from a safetensors file, an `mm_projector.bin`, or a folder that holds one of them.

    Raises `ValueError` when nothing fits, a file is damaged, tensors are missing or shapes differ.
    """
    weights = {}
    for file in _projector_files(Path(path)):
        for key, value in tensors(file, _PROJECTOR_PREFIXES):
            for prefix in _PROJECTOR_PREFIXES:
                if prefix in key:
                    weights[key.split(prefix, 1)[1]] = value
    expected = model.resampler.state_dict()
    if missing := sorted(expected.keys() - weights.keys()):
        raise ValueError(f"{path} is no projector for this model: {len(missing)} tensors missing, such as {missing[0]}")
    for name, value in expected.items():
        if value.shape != weights[name].shape:
            raise ValueError(
                f"{path}: {name} is {tuple(weights[name].shape)} but this model needs {tuple(value.shape)}; "
                f"use the projector trained with this language model and vision tower"
            )
    model.resampler.load_state_dict({name: weights[name] for name in expected})


def _projector_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: no such projector")
    for pattern in ("projector.safetensors", "mm_projector.safetensors", "mm_projector.bin", "model*.safetensors"):
        if files := sorted(path.glob(pattern)):
            return files
    raise ValueError(f"{path} holds no projector: neither mm_projector.bin nor safetensors")


def generation_config(own_ends: int | list[int] | None, processor: SicogProcessor) -> GenerationConfig:
    """Greedy, with all end tokens: the language model's own and the turn format's.

    The rest of the language model's own file (Qwen2's: top-k, a penalty) is left out.
    """
    own = own_ends if isinstance(own_ends, list) else [own_ends]
    ends = {processor.end_token_id, processor.tokenizer.eos_token_id, *own}
    return GenerationConfig(eos_token_id=sorted(ends - {None}), pad_token_id=processor.pad_token_id, do_sample=False)


def _fresh_projector(shell: Resampler | MlpProjector, dtype: torch.dtype) -> Resampler | MlpProjector:
    projector = shell.to_empty(device="cpu").to(dtype)
    for parameter in projector.parameters():
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    projector.init_weights()
    return projector


def read_config_dict(name: str) -> dict[str, Any]:
    """The values of a config.json. Raises `ValueError` when there is none, or it is none."""
    cause = None
    try:
        if values := PreTrainedConfig.get_config_dict(name)[0]:
            return values
    except OSError as error:
        cause = error
    if (file := Path(name) / "config.json").is_file():
        raise ValueError(f"{file} holds no JSON object with a model's configuration") from cause
    raise ValueError(f"{name} is neither a folder with a config.json nor a model id on the hub") from cause


def read_processor(name: str) -> SicogProcessor:
    """The processor of a checkpoint. Raises `ValueError` when files are missing or damaged."""
    processor: SicogProcessor = _read(SicogProcessor, name, _PROCESSOR_FILES)
    return processor


def _read(kind: Any, name: str, files: Sequence[str] = ()) -> Any:
    """`kind.from_pretrained(name)`, a tokenizer or processor; a local folder must hold all `files`."""
    # Without its tokenizer.json a tokenizer would load, with an empty vocabulary.
    if Path(name).is_dir() and (missing := [file for file in files if not (Path(name) / file).is_file()]):
        raise ValueError(f"{name} is incomplete: {', '.join(missing)} missing")
    try:
        return kind.from_pretrained(name)
    except UNREADABLE as error:
        raise ValueError(f"{name}, its tokenizer or processor: {unreadable(error)}") from error


def clip_vision_config(name: str) -> Any:
    """The vision tower's config of a CLIP folder or hub id. Raises `ValueError` for another kind of model."""
    from transformers import CLIPVisionConfig

    if (model_type := read_config_dict(name).get("model_type")) not in _CLIP_TYPES:
        raise ValueError(f"{name} is a model of type {model_type!r}, not a CLIP vision model; check vision_tower")
    return CLIPVisionConfig.from_pretrained(name)


def _require_causal(name: str) -> None:
    if (model_type := read_config_dict(name).get("model_type")) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"{name} is a model of type {model_type!r}, not a causal language model; check language_model")


def check_agreement(name: str, config: SicogConfig, processor: SicogProcessor) -> None:
    """Raise `ValueError` when the processor would prepare inputs for another model."""
    image = processor.image_processor
    pairs = {
        "image_token_id": (config.image_token_id, processor.image_token_id),
        "row_separator_id": (config.row_separator_id, processor.row_separator_id),
        "slice_separator_id": (config.slice_separator_id, processor.slice_separator_id),
        "query_grid": (config.query_grid, processor.query_grid),
        "patch_size": (config.patch_size, image.patch_size),
        "image_mean": (config.image_mean, image.image_mean),
        "image_std": (config.image_std, image.image_std),
        "scale": (config.scale, image.scale),
        "image_mode": (config.image_mode, image.image_mode),
    }
    for field, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise ValueError(f"{name}: {field} is {ours} in config.json but {theirs} in processor_config.json")

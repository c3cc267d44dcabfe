"""Load a whole checkpoint, or build a model from a CLIP vision model, a language model and a projector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel, GenerationConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sicog.console import say
from sicog.model.configuration import SicogConfig, config_errors
from sicog.model.hub import local_model
from sicog.model.mlp_projector import MlpProjector
from sicog.model.modeling import SicogForConditionalGeneration
from sicog.model.processing import SHARED_WITH_CONFIG, SicogProcessor
from sicog.model.resampler import Resampler
from sicog.model.vision_tower import VisionTower
from sicog.model.weight_files import Stored, check_tensors, load_tensor, tensors_of
from sicog.model.weights import UNREADABLE, load_pretrained, read_error_message, without_weight_report
from sicog.stages.storage import read_json

_CLIP_TYPES = ("clip", "clip_vision_model")
_PROCESSOR_FILES = ("processor_config.json", "tokenizer.json", "tokenizer_config.json")
_ORIGINALS = "mm_projector."
_PROJECTOR_PREFIXES = ("resampler.", _ORIGINALS)
_WHOLE_MODELS = ("model", "pytorch_model")  # first letters of the names of files that hold more than a projector


def load_checkpoint(
    path: str | Path, *, dtype: torch.dtype | str = "auto", device: str | torch.device | None = None
) -> tuple[SicogForConditionalGeneration, SicogProcessor]:
    """A model in eval mode and its processor, from a folder or a hub id.

    dtype: "auto" keeps the checkpoint's. Raises `ValueError` for a path without a checkpoint, for another architecture,
    for a damaged or incomplete checkpoint, or for a processor that does not match the model.
    """
    name = str(path)
    values = read_config_dict(name)
    if (model_type := values.get("model_type")) != SicogConfig.model_type:
        raise ValueError(
            f"{name} is a checkpoint of type {model_type!r}, not {SicogConfig.model_type!r}; "
            f"to build on a language model, give it as a part (vision_tower, language_model, projector)"
        )
    with config_errors(f"{name}, its config.json"):
        SicogConfig.from_dict(values)
    model = load_pretrained(SicogForConditionalGeneration, name, dtype=dtype)
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
    image: Mapping[str, Any] | None = None,
    **config_overrides: Any,
) -> tuple[SicogForConditionalGeneration, SicogProcessor]:
    """A new model from ordinary folders or hub ids, and its processor.

    vision_tower: a CLIP model or CLIP vision model. language_model: a causal language model with its tokenizer.
    projector: a file or folder with projector weights (see `load_projector`); None draws them at random.
    dtype: float32 when None; "auto" is the language model's own. turn_format: how turns are written, chatml or llama3.
    image: settings of `SicogImageProcessor` that the config does not hold (normalize_on, long_side, max_patches).
    config_overrides: fields of `SicogConfig`. By default the separators are the tokenizer's newline and comma, and the
    placeholder is the last unused row of the embedding table.
    """
    vision_name, text_name = str(vision_tower), str(language_model)
    vision_config = clip_vision_config(vision_name)
    _require_causal(text_name)
    target = _dtype(dtype, text_name)
    tokenizer = _read_part(AutoTokenizer, text_name)
    text = load_pretrained(AutoModelForCausalLM, text_name, dtype=target)
    fields = {**token_ids(tokenizer, text.config.vocab_size), **config_overrides}
    with config_errors("the config of the new model"):
        config = SicogConfig(vision_config=vision_config, text_config=text.config, dtype=target, **fields)
    with without_weight_report():  # a whole CLIP checkpoint also has a text model; its weights are not used
        clip = load_pretrained(CLIPVisionModel, vision_name, config=vision_config, dtype=target)
    tower = VisionTower(config.vision_config, config.vision_select_layer).to(target)  # type: ignore[arg-type]
    tower.load_state_dict(clip.state_dict())
    model = SicogForConditionalGeneration.from_parts(config, tower, text)
    model.resampler = _fresh_projector(model.resampler, target)
    if projector is not None:
        load_projector(model, projector)
    processor = SicogProcessor.from_config(config, tokenizer, turn_format=turn_format, **(image or {}))
    model.generation_config = generation_config(text.generation_config.eos_token_id, processor)
    return model.eval(), processor


def _dtype(dtype: torch.dtype | str | None, language_model: str) -> torch.dtype:
    """The dtype of the new model. Raises `ValueError` for an unknown name."""
    if dtype == "auto":
        values = read_config_dict(language_model)
        dtype = values.get("dtype") or values.get("torch_dtype")  # the older name
    target = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype or torch.float32
    if not isinstance(target, torch.dtype):
        raise ValueError(f"dtype {dtype!r} is not a torch dtype. Use float32, bfloat16 or auto")
    return target


def token_ids(tokenizer: Any, vocab_size: int) -> dict[str, int]:
    """Separators and placeholder for a tokenizer and an embedding table of `vocab_size` rows."""
    if not tokenizer.encode("\n,", add_special_tokens=False):
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no vocabulary; is its tokenizer.json missing?")
    return {
        "row_separator_id": tokenizer.encode("\n", add_special_tokens=False)[-1],
        "slice_separator_id": tokenizer.encode(",", add_special_tokens=False)[-1],
        # Without an unused row the placeholder is the first id above the table. It is masked before the look-up.
        "image_token_id": vocab_size - 1 if len(tokenizer) < vocab_size else max(vocab_size, len(tokenizer)),
    }


def load_projector(model: SicogForConditionalGeneration, path: str | Path) -> None:
    """Load projector weights from a safetensors file, an `mm_projector.bin`, or a folder that holds one of them.

    Raises `ValueError` with all tensors that are unknown, missing or misshapen, or if a file is damaged.
    """
    found: dict[str, Stored] = {}
    for file in _projector_files(Path(path)):
        found |= _projector_tensors(file)
    expected = {name: tuple(value.shape) for name, value in model.resampler.state_dict().items()}
    check_tensors(Path(path), found, expected, of="this model's projector (use one trained with its parts)")
    model.resampler.load_state_dict({name: load_tensor(stored) for name, stored in found.items()})
    is_original = any(stored.file.suffix == ".bin" and _ORIGINALS in stored.name for stored in found.values())
    if is_original and getattr(model.resampler, "regions_dtype", None) == "float32":
        say(
            f"{path}: the original rounded the borders of its regions to bfloat16. "
            f"To do the same, set regions_dtype=bfloat16 (in training: model.config.regions_dtype)"
        )


def _projector_tensors(file: Path) -> dict[str, Stored]:
    """The projector's tensors by their names in the projector; for a separate projector file, all its tensors."""
    found = {}
    for stored in tensors_of(file):
        prefix = next((prefix for prefix in _PROJECTOR_PREFIXES if prefix in stored.name), None)
        if prefix is not None:
            found[stored.name.split(prefix, 1)[1]] = stored
        elif not file.name.startswith(_WHOLE_MODELS):
            found[stored.name] = stored
    return found


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

    The sampling values of the language model's own file (Qwen2's: top_k 20, repetition_penalty 1.05) are left out. The
    sampler takes them from its config (`SamplingConfig`), never from a checkpoint.
    """
    own = own_ends if isinstance(own_ends, list) else [own_ends]
    ends = {processor.end_token_id, processor.tokenizer.eos_token_id, *own}
    return GenerationConfig(eos_token_id=sorted(ends - {None}), pad_token_id=processor.pad_token_id, do_sample=False)


def end_token_ids(folder: Path, text_config: Any) -> list[int]:
    """The end tokens of a checkpoint's config and, if present, of its generation_config.json.

    Raises `ValueError` if that file is damaged or its end tokens are not ids.
    """
    file = folder / "generation_config.json"
    values = read_json(file) if file.is_file() else {}
    ends: list[int] = []
    for given in (text_config.eos_token_id, values.get("eos_token_id") if isinstance(values, dict) else values):
        ends += given if isinstance(given, list) else [] if given is None else [given]
    if not all(type(end) is int for end in ends):
        raise ValueError(f"{file}: eos_token_id is neither an id nor a list of ids, or the file is no JSON object")
    return ends


def _fresh_projector(shell: Resampler | MlpProjector, dtype: torch.dtype) -> Resampler | MlpProjector:
    # Drawn in float32, so that every dtype has the same weights but for rounding.
    projector = shell.to_empty(device="cpu").float()
    for parameter in projector.parameters():
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    projector.init_weights()
    return projector.to(dtype)


def read_config_dict(name: str) -> dict[str, Any]:
    """The values of a config.json. Raises `ValueError` if it is missing or not a JSON object."""
    cause, folder = None, _local_name(name)
    try:
        if values := PreTrainedConfig.get_config_dict(folder)[0]:
            return values
    except OSError as error:
        cause = error
    if (file := Path(folder) / "config.json").is_file():
        raise ValueError(f"{file} is not a JSON object with a model's configuration") from cause
    raise ValueError(f"{name} is neither a folder with a config.json nor a model id on the hub") from cause


def _local_name(name: str) -> str:
    """The folder of a model: the given one, or the one in the local cache. Nothing is downloaded."""
    return str(local_model(Path(name), "model"))


def read_processor(name: str) -> SicogProcessor:
    """The processor of a checkpoint. Raises `ValueError` when files are missing or damaged."""
    processor: SicogProcessor = _read_part(SicogProcessor, name, _PROCESSOR_FILES)
    return processor


def _read_part(kind: Any, name: str, files: Sequence[str] = ()) -> Any:
    """`kind.from_pretrained(name)` for a tokenizer or processor. A local folder must have all `files`."""
    # Without its tokenizer.json a tokenizer would load with an empty vocabulary.
    if Path(name).is_dir() and (missing := [file for file in files if not (Path(name) / file).is_file()]):
        raise ValueError(f"{name} is incomplete: {', '.join(missing)} missing")
    try:
        return kind.from_pretrained(_local_name(name))
    except UNREADABLE as error:
        raise ValueError(f"{name}, its tokenizer or processor: {read_error_message(error)}") from error


def clip_vision_config(name: str) -> Any:
    """The vision tower's config of a CLIP folder or hub id. Raises `ValueError` for another kind of model."""
    from transformers import CLIPVisionConfig

    if (model_type := read_config_dict(name).get("model_type")) not in _CLIP_TYPES:
        raise ValueError(f"{name} is a model of type {model_type!r}, not a CLIP vision model; check vision_tower")
    return CLIPVisionConfig.from_pretrained(_local_name(name))


def _require_causal(name: str) -> None:
    if (model_type := read_config_dict(name).get("model_type")) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"{name} is a model of type {model_type!r}, not a causal language model; check language_model")


def check_agreement(name: str, config: SicogConfig, processor: SicogProcessor) -> None:
    """Raise `ValueError` if the processor does not match the model."""
    image = processor.image_processor
    pairs = {
        "image_token_id": (config.image_token_id, processor.image_token_id),
        "row_separator_id": (config.row_separator_id, processor.row_separator_id),
        "slice_separator_id": (config.slice_separator_id, processor.slice_separator_id),
        "query_grid": (config.query_grid, processor.query_grid),
        **{name: (getattr(config, name), getattr(image, name)) for name in SHARED_WITH_CONFIG},
    }
    for field, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise ValueError(f"{name}: {field} is {ours} in config.json but {theirs} in processor_config.json")

"""Convert the original's config.json to ours and back. The values decide the kind of a checkpoint, not its path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING, CLIPVisionConfig, PreTrainedConfig

from sicog.model.configuration import SicogConfig

PREFIXES = (  # theirs, ours; all other names belong to the language model
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower."),
    ("model.mm_projector.", "resampler."),
)
_LANGUAGE = "language_model."
_OURS = "sicog"  # key in an exported config.json for values that the original has no key for

RESAMPLER, MLP = "adapt_spatial_resampler_v1", "mlp2x_gelu"
_GRIDS = {"uhd_v1": 12, "uhd_v1_query64": 8}
_TEXT_TYPES = {"llava_qwen": "qwen2", "llava_llama": "llama", "llava": "llama"}
_ARCHITECTURES = {"qwen2": "LlavaQwenForCausalLM", "llama": "LlavaLlamaForCausalLM"}
_CLIP_HEADS = {768: 12, 1024: 16}  # OpenAI's towers, because the weights do not show the number of heads
_LONG_SIDE = 1024

# Constants of the original that are not in its config.
_ORIGINAL = {"row_separator_id": 13, "slice_separator_id": 29892, "regions_dtype": "bfloat16"}

# Required or absent image settings of an mlp.
_PADDED_SQUARE = {
    "image_aspect_ratio": ("pad",),
    "mm_patch_merge_type": ("flat", None),
    "mm_resampler_type": (None,),
}

# Keys that the original's loader reads besides those of the language model.
_KEYS: dict[str, Any] = {
    "vision_tower_pretrained": None,
    "use_mm_proj": True,
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
    "mm_resampler_type": None,
    "feature_scale_mask": 7,
    "image_aspect_ratio": "square",
    "image_grid_pinpoints": None,
    "image_crop_resolution": None,
    "image_split_resolution": None,
    "tokenizer_padding_side": "right",
    "tokenizer_model_max_length": 4096,
    "mm_newline_position": "grid",
    "add_faster_video": False,
    "faster_token_stride": 10,
    "add_time_instruction": False,
    "force_sample": False,
    "mm_spatial_pool_stride": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "mm_projector_lr": None,
    "mm_vision_tower_lr": None,
    "use_pos_skipping": False,
    "pos_skipping_range": 4096,
}
_THEIRS = {*_KEYS, "model_mode", "jbu_ckpt", "architectures", "model_type", "auto_map", _OURS}


@dataclass(frozen=True)
class Imported:
    """The values of an original config.json for `SicogConfig` and the image processor.

    turn_format: only in files that we exported; the original has no such value.
    """

    config: dict[str, Any]
    image: dict[str, Any]
    turn_format: str | None = None


def to_ours(name: str) -> str:
    """Our name of a tensor of theirs."""
    for theirs, ours in PREFIXES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return _LANGUAGE + name


def to_theirs(name: str) -> str:
    """Their name of a tensor of ours."""
    for theirs, ours in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name.removeprefix(_LANGUAGE)


def projector_of(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The kind of projector as values of `SicogConfig`. Raises `ValueError` for an unknown kind."""
    mode, kind = values.get("model_mode"), values.get("mm_projector_type")
    if kind == RESAMPLER and mode in _GRIDS:
        return {"projector_type": "resampler", "query_grid": _GRIDS[mode]}
    if kind == MLP and mode not in _GRIDS:
        _require_padded_square(values, where)
        return {"projector_type": "mlp"}
    raise ValueError(
        f"{where}: model_mode {mode!r} with mm_projector_type {kind!r} is not known; "
        f"known: {', '.join(_GRIDS)} with {RESAMPLER}, and {MLP} without them"
    )


def _require_padded_square(values: Mapping[str, Any], where: str) -> None:
    """Raise `ValueError` unless the mlp gets every patch of one padded square, because ours supports only that."""
    for key, known in _PADDED_SQUARE.items():
        if (value := values.get(key)) not in known:
            raise ValueError(f"{where}: {key} {value!r} with {MLP} is not known, only {known[0]!r}")


def read_config(
    values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str, vision: PreTrainedConfig | None = None
) -> Imported:
    """Our config from a config.json of the original and the shapes of its tensors.

    vision: the vision tower's config; None: read from the shapes, for a tower of OpenAI's CLIP.
    Raises `ValueError` with the unknown value.
    """
    projector = projector_of(values, where)
    for key, wanted in (("mm_vision_select_feature", "patch"), ("mm_use_im_start_end", False)):
        if values.get(key, wanted) != wanted:
            raise ValueError(f"{where}: {key} {values[key]!r} is not known, only {wanted!r}")
    ours = dict(values.get(_OURS) or {})
    if vision is None and "vision_config" in ours:
        vision = CLIPVisionConfig(**ours["vision_config"])
    vision = vision or _vision_config(shapes, where)
    is_mlp = projector["projector_type"] == "mlp"
    config = {
        "vision_config": vision,
        "text_config": _text_config(values, where),
        "vision_select_layer": values.get("mm_vision_select_layer", -2),
        "scale": vision.image_size if is_mlp else SicogConfig.scale,
        **projector,
        **_ORIGINAL,
        **ours.get("config", {}),
    }
    image = {"long_side": None if is_mlp else _LONG_SIDE, **ours.get("image", {})}
    return Imported(config, image, ours.get("turn_format"))


def write_config(config: SicogConfig, turn_format: str, image: Mapping[str, Any], vision_tower: str) -> dict[str, Any]:
    """The original's config.json, with our config under an extra key that the original ignores.

    Raises `ValueError` for a model that the original does not support.
    """
    text: Any = config.text_config
    vision: Any = config.vision_config
    if text.model_type not in _ARCHITECTURES:
        raise ValueError(f"the original has no model on a {text.model_type!r}; only on {', '.join(_ARCHITECTURES)}")
    is_mlp = config.projector_type == "mlp"
    mode = next((name for name, grid in _GRIDS.items() if grid == config.query_grid), None)
    if not is_mlp and mode is None:
        raise ValueError(f"the original has no query_grid of {config.query_grid}; only {[*_GRIDS.values()]}")
    values = {k: v for k, v in _json(text).items() if k != "rope_parameters"}
    rope = dict(text.rope_parameters)
    theta = rope.pop("rope_theta")
    fields = ("image_token_id", "scale", "max_slices", "image_mode", "resampler_heads", *_ORIGINAL)
    return {
        **values,
        "rope_theta": theta,
        "rope_scaling": rope if rope.get("rope_type", "default") != "default" else None,
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        **_KEYS,
        "image_aspect_ratio": "pad" if is_mlp else _KEYS["image_aspect_ratio"],
        "architectures": [_ARCHITECTURES[text.model_type]],
        "model_type": text.model_type,
        "model_mode": None if is_mlp else mode,
        "mm_projector_type": MLP if is_mlp else RESAMPLER,
        "mm_vision_tower": vision_tower,
        "mm_hidden_size": vision.hidden_size,
        "mm_vision_select_layer": config.vision_select_layer,
        _OURS: {
            "config": {name: getattr(config, name) for name in fields},
            "turn_format": turn_format,
            "image": dict(image),
            "vision_config": _json(vision),
        },
    }


def unusual_settings(config: SicogConfig, image: Mapping[str, Any]) -> list[str]:
    """Settings of a model's training that differ from those of the original's code."""
    if config.projector_type == "mlp":
        return []
    wanted = {**_ORIGINAL, "scale": SicogConfig.scale, "max_slices": SicogConfig.max_slices}
    pairs = [(name, getattr(config, name), value) for name, value in wanted.items()]
    pairs.append(("long_side", image["long_side"], _LONG_SIDE))
    return [f"{name} is {ours}, the original has {theirs}" for name, ours, theirs in pairs if ours != theirs]


def _json(config: PreTrainedConfig) -> dict[str, Any]:
    """All values of a config, defaults included (they differ between versions), without paths of this machine."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {k: v for k, v in values.items() if k not in ("_name_or_path", "dtype", "transformers_version")}


def _text_config(values: Mapping[str, Any], where: str) -> PreTrainedConfig:
    theirs = str(values.get("model_type"))
    model_type = _TEXT_TYPES.get(theirs, theirs)
    if model_type not in _ARCHITECTURES:
        known = ", ".join([*_ARCHITECTURES, *_TEXT_TYPES])
        raise ValueError(f"{where}: model_type {theirs!r} is not known; known: {known}")
    own = {k: v for k, v in values.items() if k not in _THEIRS and not k.startswith("mm_")}
    config: PreTrainedConfig = CONFIG_MAPPING[model_type].from_dict(own)
    return config


def _vision_config(shapes: Mapping[str, tuple[int, ...]], where: str) -> CLIPVisionConfig:
    prefix = PREFIXES[0][0]
    tower = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    try:
        width, _, patch, _ = tower["embeddings.patch_embedding.weight"]
        positions = tower["embeddings.position_embedding.weight"][0]
        inner = tower["encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{where} holds no whole vision tower under {prefix} (looked for {error})") from None
    if width not in _CLIP_HEADS:
        raise ValueError(
            f"{where}: how many attention heads its vision tower of width {width} has is not written in it; "
            f"name the folder of that CLIP model with --vision-tower"
        )
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=sum(name.endswith("layer_norm1.weight") for name in tower),
        num_attention_heads=_CLIP_HEADS[width],
        patch_size=patch,
        image_size=round((positions - 1) ** 0.5) * patch,
    )

"""Import and export checkpoints of the original (LLaVA's layout): all tensors, byte for byte, in their dtypes."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from sicog.console import say
from sicog.model.card import write_card
from sicog.model.checkpoints import (
    check_agreement,
    clip_vision_config,
    end_token_ids,
    generation_config,
    read_config_dict,
    read_processor,
    token_ids,
)
from sicog.model.configuration import SicogConfig
from sicog.model.mlp_projector import MlpProjector
from sicog.model.modeling import SicogForConditionalGeneration
from sicog.model.original.config import projector_of, read_config, to_ours, to_theirs, unusual_settings, write_config
from sicog.model.processing import CHATML, IMAGE_SETTINGS, SicogProcessor
from sicog.model.resampler import Resampler
from sicog.model.weight_files import (
    Stored,
    check_tensors,
    copy_tensors,
    load_tensor,
    stored_tensors,
    tensors_of,
    weight_files,
)
from sicog.model.weights import UNREADABLE, read_error_message
from sicog.stages.storage import make_readable, read_json, write_json

PROJECTOR_BIN, PROJECTOR = "mm_projector.bin", "projector.safetensors"
_PROJECTOR_PREFIX = "mm_projector."
_HEAD, _TABLE = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
_ADDED_TOKEN = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
CLIP = "openai/clip-vit-large-patch14-336"


def import_checkpoint(
    source: Path, target: Path, *, vision_tower: str | None = None, turn_format: str | None = None
) -> Path:
    """A LLaVA-format folder as one of ours, or the projector of an align stage as `projector.safetensors`.

    vision_tower: a CLIP folder whose config describes the tower; None for OpenAI's CLIP. turn_format: default chatml.
    Raises `ValueError` if the target exists, or the source is incomplete, damaged or unknown.
    """
    if not source.exists():
        raise ValueError(f"{source}: no such checkpoint")
    if source.is_file() or (not weight_files(source) and (source / PROJECTOR_BIN).is_file()):
        return _import_projector(source if source.is_file() else source / PROJECTOR_BIN, target)
    found = stored_tensors(source)
    if not found:
        raise ValueError(f"{source} holds no weights: no safetensors, no pytorch_model.bin and no {PROJECTOR_BIN}")
    vision = clip_vision_config(vision_tower) if vision_tower else None
    shapes = {name: stored.shape for name, stored in found.items()}
    imported = read_config(read_config_dict(str(source)), shapes, str(source), vision)
    tokenizer = _tokenizer(source, imported.config["text_config"])
    ours = {to_ours(name): stored for name, stored in found.items()}
    fields = token_ids(tokenizer, imported.config["text_config"].vocab_size) | imported.config
    config = SicogConfig(**fields, architectures=[SicogForConditionalGeneration.__name__])
    expected = {to_theirs(name): shape for name, shape in _shapes(config).items()}
    check_tensors(source, found, expected, map(to_theirs, _optional(config)))
    _check_tied(source, config, ours)
    config.dtype = ours[_TABLE].dtype
    turns = turn_format or imported.turn_format or CHATML.name
    processor = SicogProcessor.from_config(config, tokenizer, turn_format=turns, **imported.image)
    ends = end_token_ids(source, config.text_config)
    with _new_folder(target) as made:
        copy_tensors(ours, made)
        config.save_pretrained(made)
        processor.save_pretrained(made)
        generation_config(ends, processor).save_pretrained(made)
        write_card(made, config)
    say(f"{target}: {len(found)} tensors, all accounted for; projector {config.projector_type}")
    return target


def export_checkpoint(source: Path, target: Path, *, vision_tower: str = CLIP) -> Path:
    """Write one of our checkpoints in LLaVA's layout. vision_tower: the base CLIP for the original's loader.

    Raises `ValueError` if the target exists, the source is incomplete, or the original has no such model.
    """
    if (model_type := read_config_dict(str(source)).get("model_type")) != SicogConfig.model_type:
        raise ValueError(f"{source} is a checkpoint of type {model_type!r}, not {SicogConfig.model_type!r}")
    config = SicogConfig.from_pretrained(source)
    processor = read_processor(str(source))
    check_agreement(str(source), config, processor)
    found = stored_tensors(source)
    check_tensors(source, found, _shapes(config), _optional(config))
    image = {name: getattr(processor.image_processor, name) for name in IMAGE_SETTINGS}
    values = write_config(config, processor.turn_format, image, vision_tower)
    ends = end_token_ids(source, config.text_config)
    with _new_folder(target) as made:
        copy_tensors({to_theirs(name): stored for name, stored in found.items()}, made)
        _write_tokenizer(processor.tokenizer, made)
        write_json(made / "config.json", values)
        generation_config(ends, processor).save_pretrained(made)
    kind = values["model_type"].removesuffix("2")
    say(f"{target}: {len(found)} tensors in LLaVA's layout. Its loader reads the folder's name: keep {kind!r} in it")
    for stray in unusual_settings(config, image):
        say(f"  differs from the original's code: {stray}")
    return target


def _import_projector(file: Path, target: Path) -> Path:
    weights = {stored.name.partition(_PROJECTOR_PREFIX)[2] or stored.name: stored for stored in tensors_of(file)}
    config = file.parent / "config.json"
    shell = _projector(file, weights, read_config_dict(str(file.parent)) if config.is_file() else None)
    check_tensors(file, weights, {name: tuple(value.shape) for name, value in shell.state_dict().items()})
    with _new_folder(target) as made:
        save_file({f"resampler.{name}": load_tensor(stored) for name, stored in weights.items()}, made / PROJECTOR)
    say(f"{target / PROJECTOR}: {len(weights)} tensors, all accounted for; use it as model.projector, with")
    is_resampler = isinstance(shell, Resampler)
    say(f"  model.config.{'regions_dtype=bfloat16' if is_resampler else 'projector_type=mlp'}")
    return target


def _projector(file: Path, weights: Mapping[str, Stored], values: Mapping[str, Any] | None) -> Resampler | MlpProjector:
    """A projector with the sizes of the weights, on the meta device; its kind is from config.json if there is one."""
    declared = projector_of(values, str(file.parent))["projector_type"] if values else None
    kind = declared or ("resampler" if "query" in weights else "mlp")
    try:
        with torch.device("meta"):
            if kind == "mlp":
                (width, _), (_, vision_width) = weights["2.weight"].shape, weights["0.weight"].shape
                return MlpProjector(width=width, vision_width=vision_width)
            n_queries, width = weights["query"].shape
            kv = weights.get("kv_proj.weight")
            vision_width = kv.shape[1] if kv else width
            return Resampler(query_grid=math.isqrt(n_queries), width=width, vision_width=vision_width, n_heads=1)
    except (KeyError, ValueError, IndexError):
        names = ", ".join(sorted(weights)[:8]) or "none"
        raise ValueError(f"{file} has no projector of kind {kind}; its tensors: {names}") from None


def _shapes(config: SicogConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a checkpoint, by our names."""
    with torch.device("meta"):
        model = SicogForConditionalGeneration(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _optional(config: SicogConfig) -> list[str]:
    """Tensors that may be missing: the head of a language model with tied embeddings."""
    return [_HEAD] if config.tie_word_embeddings else []


def _check_tied(folder: Path, config: SicogConfig, ours: Mapping[str, Stored]) -> None:
    if config.tie_word_embeddings and _HEAD in ours and not load_tensor(ours[_HEAD]).equal(load_tensor(ours[_TABLE])):
        raise ValueError(f"{folder}: config.json says tie_word_embeddings, but lm_head.weight differs from the table")


def _tokenizer(folder: Path, text_config: Any) -> Any:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise ValueError(
            f"{folder} is incomplete: the tokenizer is missing. Copy the language model's tokenizer into it"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, config=text_config)
    except UNREADABLE as error:
        raise ValueError(f"{folder}, its tokenizer: {read_error_message(error)}") from error


def _write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer's files, also those for the original's Transformers 4.40, which reads no tokenizer.json."""
    tokenizer.save_pretrained(folder)
    backend = tokenizer.backend_tokenizer
    backend.model.save(str(folder))  # vocab.json, merges.txt
    values = read_json(folder / "tokenizer_config.json")
    added = backend.get_added_tokens_decoder()
    table = {str(i): {name: getattr(token, name) for name in _ADDED_TOKEN} for i, token in sorted(added.items())}
    # The original expects exactly two: the start and the end of a turn. The padding token is not one of them.
    special = [t["content"] for t in table.values() if t["special"] and t["content"] != tokenizer.pad_token]
    own = {"added_tokens_decoder": table, "additional_special_tokens": special}
    write_json(folder / "tokenizer_config.json", {**values, **own})


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `target` at the end. On an error it is removed."""
    if target.exists():
        raise ValueError(f"{target} exists. Choose another folder or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield made
        make_readable(made)
        made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise

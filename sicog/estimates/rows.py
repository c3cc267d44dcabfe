"""`sicog flops CONFIG`: what a row of one image and some text costs, in tokens, FLOPs, parameters and memory."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from sicog.config import load_yaml
from sicog.console import stdout_console
from sicog.estimates.arithmetic.flops import (
    PARTS,
    Work,
    forward_flops,
    image_processor,
    parameters,
    trained_parameters,
    training_flops,
    work_of,
)
from sicog.estimates.arithmetic.memory import ZERO_STAGES, Checkpointing, activations, states, states_without_deepspeed
from sicog.model.checkpoints import read_processor
from sicog.model.configuration import SicogConfig, mistakes_of
from sicog.model.image_processing import SicogImageProcessor

_MEMORY_NOTE = (
    "ZeRO 0 to 3: DeepSpeed in bfloat16, weights and gradients of 2 bytes, and 12 of the optimizer: a float32 copy and "
    "two moments.\n"
    "ZeRO none: `sicog train` without DeepSpeed, float32 weights, gradients and moments under bfloat16 "
    "autocast, which makes bfloat16 copies of the weights on top. Kept are the activations of a bfloat16 model "
    "without checkpointing,\nwith selective (what lies between products is computed again) and with full checkpointing."
)
# What the paper's stages train, and whether they cut images into slices.
STAGES: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "align": (("projector",), False),
    "pretrain, sft": (PARTS, True),
}


def flops(
    config_path: Path,
    *,
    image: str = "1024x768",
    text: int = 500,
    supervised: int | None = None,
    devices: int = 1,
    long_side: int | None = None,
) -> None:
    """Print the plan. image: WIDTHxHEIGHT in pixels, or `none`. supervised: of the text tokens; None: all.

    long_side: images are resized to it first; a checkpoint folder says itself how its images are prepared.
    Raises `ValueError` for a config or a size that cannot be read.
    """
    if text < 1 or devices < 1 or not 0 <= (text if supervised is None else supervised) <= text:
        raise ValueError("text and devices must be at least 1, and supervised at most text")
    config, size, console = read_config(config_path), image_size(image), stdout_console()
    processor = _image_processor(config_path, config, long_side)
    works = {
        stage: work_of(config, size, text, slicing=slicing, supervised=supervised, processor=processor)
        for stage, (_, slicing) in STAGES.items()
    }
    console.print(_tokens(works), _parameters(config))
    for stage, (trainable, _) in STAGES.items():
        console.print(_flops(config, stage, trainable, works[stage]))
    console.print(_memory(config, works, devices))
    console.print(_MEMORY_NOTE, highlight=False)


def _image_processor(path: Path, config: SicogConfig, long_side: int | None) -> SicogImageProcessor:
    """A checkpoint folder's own, else one of the config's settings."""
    if not (path / "processor_config.json").is_file():
        if long_side is not None and long_side < 1:
            raise ValueError("long-side must be at least 1")
        return image_processor(config, long_side)
    if long_side is not None:
        raise ValueError(f"long-side comes with the checkpoint {path}; leave it out")
    processor: SicogImageProcessor = read_processor(str(path)).image_processor
    return processor


def read_config(path: Path) -> SicogConfig:
    """The config of a checkpoint folder, or of a JSON or YAML file with fields of `SicogConfig`."""
    file = path / "config.json" if path.is_dir() else path
    fields = _json(file) if file.suffix == ".json" else load_yaml(file)
    known = {field.name for field in dataclasses.fields(SicogConfig)} | {"model_type"}
    if "vision_config" not in fields or "text_config" not in fields:
        raise ValueError(f"{file} must hold vision_config and text_config, as a checkpoint's config.json does")
    if not path.is_dir() and (unknown := sorted(fields.keys() - known)):
        raise ValueError(f"{file}: unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    with mistakes_of(str(file)):
        config: SicogConfig = SicogConfig.from_dict(fields)
    return config


def _json(file: Path) -> dict[str, Any]:
    # YAML would do for JSON, did it not read 1e-05 as a text.
    try:
        fields = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{file}: no such config file") from None
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None
    return fields if isinstance(fields, dict) else {}


def image_size(text: str) -> tuple[int, int] | None:
    """(width, height) of WIDTHxHEIGHT; None of `none`."""
    if text == "none":
        return None
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise ValueError(f"image must be WIDTHxHEIGHT in pixels, such as 1024x768, or none; got {text!r}")
    return int(match[1]), int(match[2])


def _tokens(works: Mapping[str, Work]) -> Table:
    table = _table("tokens", "stage", "views", "patches", "image tokens", "text tokens", "positions", "supervised")
    for stage, w in works.items():
        counts = (
            len(w.views),
            sum(h * c for h, c in w.views),
            w.image_tokens,
            w.text_tokens,
            w.positions,
            w.supervised,
        )
        table.add_row(stage, *(f"{n:,}" for n in counts))
    return table


def _parameters(config: SicogConfig) -> Table:
    table = _table("parameters", "part", "all", *(f"trained: {stage}" for stage in STAGES))
    counts = parameters(config)
    for name, count in counts.items():
        trained = [trained_parameters(config, {name} & {*trainable}) for trainable, _ in STAGES.values()]
        table.add_row(name, f"{count:,}", *(f"{n:,}" for n in trained))
    totals = [trained_parameters(config, trainable) for trainable, _ in STAGES.values()]
    table.add_section()
    table.add_row("total", f"{sum(counts.values()):,}", *(f"{n:,}" for n in totals))
    return table


def _flops(config: SicogConfig, stage: str, trainable: tuple[str, ...], work: Work) -> Table:
    columns = (
        forward_flops(config, work),
        training_flops(config, work, trainable),
        training_flops(config, work, trainable, checkpointing=True),
    )
    table = _table(f"TFLOP of a row: {stage}", "part", "forward", "training", "with checkpointing")
    for name in columns[0]:
        table.add_row(name, *(f"{column[name] / 1e12:.3f}" for column in columns))
    table.add_section()
    table.add_row("total", *(f"{sum(column.values()) / 1e12:.3f}" for column in columns))
    return table


def _memory(config: SicogConfig, works: Mapping[str, Work], devices: int) -> Table:
    names = ("weights", "gradients", "optimizer", "kept", "selective", "full", "total", "selective", "full")
    table = _table(f"GiB on each of {devices} device(s), one row at a time", "stage", "ZeRO", *names)
    for stage, (trainable, _) in STAGES.items():
        kept = [
            sum(activations(config, works[stage], trainable, checkpointing=level).values())
            for level in get_args(Checkpointing)
        ]
        kinds = {str(zero): states(config, trainable, zero_stage=zero, devices=devices) for zero in ZERO_STAGES}
        for zero, s in {"none": states_without_deepspeed(config, trainable), **kinds}.items():
            sizes = (s.weights, s.gradients, s.optimizer, *kept, *(s.total + k for k in kept))
            table.add_row(stage, zero, *(f"{n / 2**30:.2f}" for n in sizes))
        table.add_section()
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    return table

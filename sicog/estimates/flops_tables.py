"""`sicog flops CONFIG`: tables of tokens, FLOPs, parameters and memory, for a row of one image and some text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from rich.table import Table

from sicog.console import stdout_console
from sicog.estimates.arithmetic.assumed import image_size
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
from sicog.estimates.arithmetic.memory import ZERO_STAGES, activations, states, states_without_deepspeed
from sicog.estimates.shapes import read_config
from sicog.model.checkpoints import read_processor
from sicog.model.configuration import SicogConfig
from sicog.model.image_processing import SicogImageProcessor
from sicog.model.kernels.choice import Checkpointing

_MEMORY_NOTE = (
    "ZeRO 0 to 3: DeepSpeed in bfloat16, weights and gradients of 2 bytes, and 12 of the optimizer: a float32 copy and "
    "two moments.\n"
    "ZeRO none: `sicog train` without DeepSpeed, float32 weights, gradients and moments under bfloat16 "
    "autocast, which makes bfloat16 copies of the weights on top. Kept are the activations of a bfloat16 model "
    "without checkpointing,\nwith selective (what lies between products is computed again) and with full checkpointing."
)
# The parts that the paper's stages train, and whether they cut images into slices.
STAGES: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "align": (("projector",), False),
    "pretrain, sft": (PARTS, True),
}


def print_tables(
    config_path: Path,
    *,
    image: str = "1024x768",
    text: int = 500,
    supervised: int | None = None,
    devices: int = 1,
    long_side: int | None = None,
) -> None:
    """Print the tables. image: WIDTHxHEIGHT in pixels, or `none`. supervised: of the text tokens; None: all.

    long_side: resize the image to it first; not for a checkpoint folder, which has its own setting.
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
    console.print(_MEMORY_NOTE)


def _image_processor(path: Path, config: SicogConfig, long_side: int | None) -> SicogImageProcessor:
    """The image processor of a checkpoint folder, else one with the config's settings."""
    if not (path / "processor_config.json").is_file():
        if long_side is not None and long_side < 1:
            raise ValueError("long-side must be at least 1")
        return image_processor(config, long_side)
    if long_side is not None:
        raise ValueError(f"long-side comes with the checkpoint {path}; leave it out")
    processor: SicogImageProcessor = read_processor(str(path)).image_processor
    return processor


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

"""Memory, FLOPs and disk of one training, computed from shapes, for its own dry run and for the plan of a recipe.

`sicog train --dry-run` has the rows and measures a sample of them. The plan of a recipe may have neither rows nor
models, and assumes the sizes of a row. Everything that follows from a row is computed here, once for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sicog.estimates.arithmetic.flops import Work, parameters, row_cost, trained_parameters, training_flops
from sicog.estimates.arithmetic.memory import ZERO_STAGES, States, activations, states, states_without_deepspeed
from sicog.model.configuration import SicogConfig
from sicog.model.lengths import RowLengths
from sicog.training.config import TrainConfig
from sicog.training.fitting import choose_level
from sicog.training.updates import pack_limits

_DEVICE_BYTES = 79 * 2**30  # what an A100 or H100 of 80 GB offers
_NO_DEEPSPEED, _FSDP = "no DeepSpeed", "FSDP"
_SHARINGS = {"ddp": _NO_DEEPSPEED, "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp": _FSDP}


@dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    states: what stays from update to update, by the way in which devices share it. heaviest: the largest micro-batch
    that the config allows. batch: its activations.
    """

    states: Mapping[str, States]
    heaviest: Work
    batch: float

    def total(self, sharing: str) -> float:
        """Bytes on each device with this way of sharing."""
        return self.states[sharing].total + self.batch


def memory_of(config: TrainConfig, model: SicogConfig, devices: int) -> Memory:
    """The memory of a training under each way of sharing it among so many devices."""
    trained, work = config.whole_parts, heaviest(config, model)
    kinds = {_NO_DEEPSPEED: states_without_deepspeed(model, trained)}
    for stage in ZERO_STAGES:
        kinds[f"ZeRO-{stage}"] = states(model, trained, zero_stage=stage, devices=devices)
    kinds[_FSDP] = states_without_deepspeed(model, trained, shards=devices)
    level = with_planned_level(config, model, devices).gradient_checkpointing
    assert level != "auto"
    batch = sum(activations(model, work, trained, checkpointing=level).values())
    return Memory(kinds, work, batch)


def with_planned_level(config: TrainConfig, model: SicogConfig, devices: int) -> TrainConfig:
    """`gradient_checkpointing: auto` as it would be chosen on devices of 80 GB; other values stay."""
    if config.gradient_checkpointing != "auto":
        return config
    parallel = _parallel_of(config, devices)
    fit = choose_level(
        config, model, heaviest(config, model), parallel=parallel, devices=devices, available=_DEVICE_BYTES
    )
    return config.model_copy(update={"gradient_checkpointing": fit.level})


def sharing_of(config: TrainConfig, devices: int) -> str:
    """The way of sharing that `parallel` stands for on so many GPUs that have deepspeed: a key of `Memory.states`."""
    return _SHARINGS[_parallel_of(config, devices)]


def _parallel_of(config: TrainConfig, devices: int) -> str:
    automatic = "zero2" if devices > 1 else "ddp"
    return automatic if config.parallel == "auto" else config.parallel


def heaviest(config: TrainConfig, model: SicogConfig) -> Work:
    """The largest micro-batch that the config allows, of rows with at most one image, all their text supervised."""
    side = model.scale // model.patch_size
    conversations = config.device_batch * config.conversations_per_row
    views = conversations * (model.max_slices + 1 if config.slicing and model.image_mode == "slices" else 1)
    positions = conversations * config.max_length
    if config.packing != "off":
        nothing = np.zeros(0, dtype=np.int32)
        limits = pack_limits(config, RowLengths(nothing, nothing, nothing, nothing))
        views, positions = limits.views, limits.tokens
    image_tokens = min(views * model.query_grid**2, positions)
    text = positions - image_tokens
    return Work(((side, side),) * views, image_tokens, text, text)


@dataclass(frozen=True)
class Updates:
    """The updates of a whole training, and the rows of each."""

    n: int
    batch: int

    @property
    def rows(self) -> int:
        """Rows of all updates. The last update is filled up, so that an epoch may have more than the data."""
        return self.n * self.batch


def updates_of(config: TrainConfig, n_rows: int, devices: int) -> Updates:
    """The updates of a training on `n_rows`. Raises `ValueError` when the sizes of a batch do not agree."""
    batch = config.rows_per_update(devices)
    return Updates(config.max_steps or max(1, math.ceil(config.epochs * n_rows / batch - 1e-9)), batch)


def mean_row_flops(config: TrainConfig, model: SicogConfig, lengths: RowLengths) -> float:
    """FLOPs of training on a row, the mean of conversations with these lengths."""
    cost = row_cost(model, config.whole_parts, checkpointing=_repeats(config))
    return float(np.mean(cost.of(lengths))) * config.conversations_per_row


def row_flops(config: TrainConfig, model: SicogConfig, work: Work) -> int:
    """FLOPs of training on a row whose conversations are all like this one."""
    flops = training_flops(model, work, config.whole_parts, checkpointing=_repeats(config))
    return sum(flops.values()) * config.conversations_per_row


def _repeats(config: TrainConfig) -> bool:
    """Whether the backward pass computes products again: `selective` checkpointing keeps them."""
    return config.gradient_checkpointing == "full"


def written_bytes(config: TrainConfig, model: SicogConfig, devices: int) -> tuple[float, float]:
    """Bytes on disk of the trained model, and of the checkpoints beside it while it is trained."""
    bfloat16 = sharing_of(config, devices) not in (_NO_DEEPSPEED, _FSDP)
    weights = sum(parameters(model).values()) * (2 if bfloat16 else 4)
    optimizer = trained_parameters(model, config.whole_parts) * (12 if bfloat16 else 8)
    return weights, config.save_total_limit * (weights + optimizer)

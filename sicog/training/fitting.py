"""`gradient_checkpointing: auto`: compute again only as much as the memory of the GPU asks for.

All ranks choose alike, from the heaviest micro-batch of the whole run and the GPU with the least memory: under ZeRO-3
the backward pass gathers weights, and ranks that recompute different layers would wait for each other.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from sicog.data.batching import RunPlan
from sicog.estimates.arithmetic.flops import Work
from sicog.estimates.arithmetic.memory import States, activations, states, states_without_deepspeed
from sicog.model.configuration import SicogConfig
from sicog.model.kernels.choice import Checkpointing
from sicog.model.lengths import RowLengths
from sicog.training.config import TrainConfig
from sicog.training.memory_check import heaviest_micro_batch

_LEVELS: tuple[Checkpointing, ...] = ("none", "selective", "full")  # the fastest first
# What is not computed: the CUDA context, buffers of communication, fragments of what is.
_RESERVE, _SHARE = 4 * 2**30, 0.95


@dataclass(frozen=True)
class Fit:
    """The chosen level, the bytes of the heaviest micro-batch and all states at that level, and those of the device."""

    level: Checkpointing
    needed: float
    available: float

    def __str__(self) -> str:
        return f"{self.level} (auto: {self.needed / 2**30:,.1f} of {self.available / 2**30:,.1f} GiB computed)"


def choose_level(
    config: TrainConfig, model: SicogConfig, work: Work, *, parallel: str, devices: int, available: float
) -> Fit:
    """The first of none, selective and full that fits so many bytes, else full. work: the heaviest micro-batch."""
    kept = sharded_states(config, model, parallel, devices)
    on_device = kept.total - (kept.optimizer if config.offload else 0)
    for level in _LEVELS:
        needed = on_device + sum(activations(model, work, config.whole_parts, checkpointing=level).values())
        allowed = not config.model_copy(update={"gradient_checkpointing": level}).refused_checkpointing()
        if level == "full" or (allowed and needed + _RESERVE <= _SHARE * available):
            break
    return Fit(level, needed, available)


def sharded_states(config: TrainConfig, model: SicogConfig, parallel: str, devices: int) -> States:
    """What stays on each device from update to update. parallel: a value of that key, but not auto."""
    if parallel in ("zero2", "zero3"):
        return states(model, config.whole_parts, zero_stage=int(parallel[-1]), devices=devices)
    return states_without_deepspeed(model, config.whole_parts, shards=devices if parallel == "fsdp" else 1)


def with_chosen_level(
    config: TrainConfig, model: SicogConfig, plan: RunPlan, lengths: RowLengths
) -> tuple[TrainConfig, Fit | None]:
    """The config with a level of checkpointing, and why it is this one. Without a GPU nothing is computed again."""
    if config.gradient_checkpointing != "auto":
        return config, None
    available = _device_bytes()
    if available is None:
        return config.model_copy(update={"gradient_checkpointing": "none"}), None
    work = heaviest_work(plan, lengths, model, config)
    fit = choose_level(
        config, model, work, parallel=config.parallel, devices=plan.world_size, available=_least_of_all(available)
    )
    return config.model_copy(update={"gradient_checkpointing": fit.level}), fit


def heaviest_work(plan: RunPlan, lengths: RowLengths, model: SicogConfig, config: TrainConfig) -> Work:
    """The heaviest micro-batch of all ranks as one row. Its views are taken as equal squares."""
    rows = heaviest_micro_batch(plan, lengths, None, model, config.trainable, padded=plan.padded)
    tokens, views = lengths.tokens[rows], int(lengths.views[rows].sum())
    positions = int(tokens.max()) * len(rows) if plan.padded else int(tokens.sum())
    side = math.ceil(math.sqrt(int(lengths.patches[rows].sum()) / views)) if views else 0
    image_tokens = min(positions, views * model.query_grid**2)
    supervised = int(lengths.supervised[rows].sum())
    return Work(((side, side),) * views, image_tokens, positions - image_tokens, supervised)


def _device_bytes() -> float | None:
    """What this process can have of its GPU: the free memory and what it holds; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    device = int(os.environ.get("LOCAL_RANK", "0"))
    return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))


def _least_of_all(available: float) -> float:
    """The minimum over all ranks, if they can talk already; with other kinds than ZeRO-3 they need not agree."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return available
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, available)
    return float(min(found))

"""Fail early on out-of-memory: run the heaviest micro-batch before the first update."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from transformers import TrainerCallback

from sicog.data.batching import RunPlan
from sicog.model.configuration import SicogConfig
from sicog.model.lengths import RowLengths
from sicog.training.config import TrainConfig


class Trains(Protocol):
    """The attributes of a trainer that the check needs. `SicogTrainer` has them."""

    model: Any
    model_wrapped: Any
    optimizer: Any
    args: Any
    accelerator: Any
    config: TrainConfig
    plan: RunPlan
    ids_of_update: Any
    is_deepspeed_enabled: bool

    def get_train_dataloader(self) -> Any: ...
    def compute_loss(self, model: Any, inputs: Any, *, num_items_in_batch: Any) -> Any: ...
    def compute_loss_context_manager(self) -> Any: ...
    def listed_ids(self) -> str: ...
    def _prepare_inputs(self, inputs: Any) -> Any: ...


def heaviest_micro_batch(
    plan: RunPlan,
    lengths: RowLengths,
    rank: int | None,
    config: SicogConfig,
    trainable: Collection[str],
    *,
    padded: bool,
) -> np.ndarray:
    """int64 [rows]: the micro-batch of this rank that stores most for the backward pass; None: of all ranks.

    Weighted by width and depth: positions for the language model, patches for the vision tower if it is trained.
    padded: all rows of a micro-batch are as long as its longest.
    """
    text: Any = config.text_config
    vision: Any = config.vision_config
    of_position = text.num_hidden_layers * text.hidden_size
    of_patch = vision.num_hidden_layers * vision.hidden_size if "vision_tower" in trainable else 0
    starts, counts = plan.borders[:-1], np.diff(plan.borders)
    tokens, patches = (lengths_N[plan.rows].astype(np.int64) for lengths_N in (lengths.tokens, lengths.patches))
    positions = np.maximum.reduceat(tokens, starts) * counts if padded else np.add.reduceat(tokens, starts)
    weights = positions * of_position + np.add.reduceat(patches, starts) * of_patch
    k = int(np.argmax(weights))
    if rank is not None:
        k = rank + plan.world_size * int(np.argmax(weights[rank :: plan.world_size]))
    return plan.rows[plan.borders[k] : plan.borders[k + 1]]


class MemoryCheck(TrainerCallback):
    """Run this rank's heaviest micro-batch just before the first update. Every rank runs its own."""

    def __init__(self, trainer: Trains, lengths: RowLengths) -> None:
        self.trainer = trainer
        model: Any = trainer.model
        self.rows = heaviest_micro_batch(
            trainer.plan,
            lengths,
            trainer.args.process_index,
            model.config,
            trainer.config.trainable,
            padded=trainer.plan.padded,
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Run the check. Raises `ValueError` with the rows that were too large and the settings to lower."""
        if state.global_step < state.max_steps:  # else only the final files remain to be written
            try_micro_batch(self.trainer, self.trainer.model_wrapped, self.rows)


def try_micro_batch(trainer: Trains, model: Any, rows: np.ndarray) -> None:
    """Run one micro-batch forward and backward and leave no trace: neither gradients nor random state.

    The loss is multiplied by zero, so the sums of an engine (DeepSpeed) do not change. If the optimizer allocates its
    moments at the first update, an empty buffer of their size replaces them.
    """
    loader = trainer.get_train_dataloader()
    batch: Any = loader.collate_fn([loader.dataset[int(i)] for i in rows])
    trainer.ids_of_update = batch.pop("ids")
    inputs: Any = trainer._prepare_inputs(batch)
    device = trainer.args.device
    accelerator = trainer.accelerator
    with torch.random.fork_rng([device] if device.type == "cuda" else []), explain_out_of_memory(trainer, inputs):
        moments = torch.empty(_missing_moments(trainer), dtype=torch.uint8, device=device)
        model.train()
        accelerator.gradient_state._set_sync_gradients(False)
        with accelerator.no_sync(model):
            with trainer.compute_loss_context_manager():
                loss: Any = trainer.compute_loss(model, inputs, num_items_in_batch=torch.ones((), device=device))
            kwargs = {"scale_wrt_gas": False} if trainer.is_deepspeed_enabled else {}
            accelerator.backward(0.0 * loss, **kwargs)
        del moments
    model.zero_grad()


@contextmanager
def explain_out_of_memory(trainer: Trains, inputs: Mapping[str, Any]) -> Iterator[None]:
    """Turn out-of-memory into a `ValueError` with the size of the micro-batch and the settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        shape = " x ".join(map(str, inputs["input_ids"].shape))
        views = f", {len(inputs['view_sizes'])} views" if inputs.get("view_sizes") is not None else ""
        raise ValueError(
            f"out of memory on a micro-batch of {shape} positions{views}, among rows {trainer.listed_ids()}. "
            f"{_ways_out(trainer.config)}"
        ) from error


def _ways_out(config: TrainConfig) -> str:
    lower = [f"max_length (now {config.max_length})"]
    if config.device_batch > 1:
        lower.insert(0, f"device_batch (now {config.device_batch}; the global batch does not change)")
    if config.packing != "off":
        lower.insert(0, "pack_tokens")
    here = "Set gradient_checkpointing=full and run again; or, " if config.gradient_checkpointing != "full" else ""
    ways = f"lower {' or '.join(lower)}, use more devices with parallel=zero3 or train adapters (lora)"
    return f"{here}{ways if here else ways[0].upper() + ways[1:]}, as a new run in another folder"


def _missing_moments(trainer: Trains) -> int:
    """Bytes of AdamW's two moments, unless the optimizer has made them."""
    optimizer: Any = trainer.optimizer
    if trainer.is_deepspeed_enabled or optimizer.state:
        return 0
    n_trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    return n_trained * (2 if trainer.config.optimizer == "adamw_8bit" else 8)

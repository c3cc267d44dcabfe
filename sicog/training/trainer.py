"""Transformers' Trainer with our row order, complete checkpoints, and a check that updates are finite."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from sicog.data.batching import RunPlan
from sicog.data.collator import PackedCollator, PaddedCollator
from sicog.data.dataset import ExampleDataset
from sicog.data.pairs import PairCollator, PairDataset
from sicog.model.kernels.document_attention import attend_within_documents
from sicog.model.precision import resolve_precision
from sicog.training import lora, run_checkpoints
from sicog.training.config import TrainConfig
from sicog.training.memory_check import explain_out_of_memory
from sicog.training.objectives.dpo import DpoObjective
from sicog.training.optimizer import optimizer_name, parameter_groups, rates_of
from sicog.training.parallel import sharding
from sicog.training.recompute import checkpoint_activations
from sicog.training.save_times import SaveTimes

if TYPE_CHECKING:
    from sicog.model.modeling import SicogForConditionalGeneration
    from sicog.model.processing import SicogProcessor

_IDS_SHOWN = 16
_ON_HOST = ("view_sizes", "image_grids", "document_borders")
# Private methods of Transformers that we override. If one is renamed, ours would silently never be called.
_HOOKS = (
    *("_prepare_inputs", "_clip_grad_norm", "_get_learning_rate", "_load_optimizer_and_scheduler"),
    *("_save", "_save_checkpoint", "_load_from_checkpoint"),
)
assert all(hasattr(Trainer, hook) for hook in _HOOKS), f"another Trainer than this was written for: {_HOOKS}"


class SicogTrainer(Trainer):
    """Train by a `RunPlan`: the whole run is one pass over its updates, for any number of epochs.

    The loss of an update is the sum over its supervised tokens divided by their number, over all micro-batches and
    ranks. If the loss or gradient of an update is not finite, the run stops before the weights change.
    """

    def __init__(
        self,
        model: SicogForConditionalGeneration,
        processor: SicogProcessor,
        dataset: ExampleDataset | PairDataset,
        plan: RunPlan,
        config: TrainConfig,
        callbacks: list[TrainerCallback],
        objective: DpoObjective | None = None,
    ) -> None:
        checkpoint_activations(model, config.gradient_checkpointing)
        if config.packing != "off":
            attend_within_documents(model)
        super().__init__(model=model, args=trainer_arguments(config, plan), callbacks=callbacks)
        # The Trainer writes `use_cache: false` into the config, but the model decides that in each call.
        vars(model.config).pop("use_cache", None)
        # Use only our progress bar and log lines. Theirs would print every update.
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        # The model divides by num_items_in_batch itself.
        self.model_accepts_loss_kwargs = True
        if not torch.distributed.is_initialized():
            self.args._n_gpu = min(self.args.n_gpu, 1)  # several GPUs need torchrun; DataParallel is never used
        self.processor = processor
        self.dataset = dataset
        self.plan = plan
        self.config = config
        self.times = SaveTimes(plan.n_steps, config.save_steps, config.save_minutes)
        self.objective: DpoObjective | None = objective
        self._losses: list[torch.Tensor] = []
        self.ids_of_update: list[str] = []
        self.rates_of_update: dict[str, float] = {}

    def get_train_dataloader(self) -> DataLoader:
        """The micro-batches of this rank, of all epochs."""
        workers = self.args.dataloader_num_workers
        dataset: Any = self.dataset  # map-style by its two methods
        packed = PackedCollator(self.processor.image_token_id)
        collate = PaddedCollator(self.processor) if self.plan.padded else packed
        return DataLoader(
            dataset,
            batch_sampler=self.plan.micro_batches(self.args.process_index),
            collate_fn=collate if self.objective is None else PairCollator(collate),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.args.device.type == "cuda",
            # Without its own generator the loader would take its base seed from the global one.
            generator=torch.Generator().manual_seed(self.config.seed),
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of one update and the number of its supervised tokens over all ranks."""
        if self.objective is not None:
            self.objective.begin_update()
        self._losses = []
        batches, n_supervised = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.ids_of_update = [row_id for batch in batches for row_id in batch.pop("ids")]
        if batches and (n_supervised is None or not int(n_supervised)):
            raise ValueError(f"no supervised token in the update of rows {_join_ids(self.ids_of_update)}")
        return batches, n_supervised

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one micro-batch."""
        with explain_out_of_memory(self, inputs):
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Forward of one micro-batch. The last one checks all before its backward, which is DeepSpeed's update."""
        if self.objective is None:
            loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        else:  # it is divided by the counts of all ranks, and later code averages over ranks
            loss = self.objective.loss(model, inputs, self.state.global_step) * self.accelerator.num_processes
        self._losses.append(loss.detach())
        if self.accelerator.sync_gradients:  # the last micro-batch: one look for all of the update
            values = torch.stack(self._losses).tolist()
            self._stop_unless_finite(next((x for x in values if not math.isfinite(x)), 0.0), "loss")
        return loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """To the device, except for what the model reads on the host. Arrays, because wrappers move every tensor."""
        on_host = {name: inputs[name].numpy() for name in _ON_HOST if name in inputs}
        prepared: dict[str, Any] = super()._prepare_inputs({k: x for k, x in inputs.items() if k not in on_host})
        return {**prepared, **on_host}

    def _over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        total: Any = self.accelerator.reduce(values.to(self.args.device), reduction="sum")
        return total

    def _clip_grad_norm(self, model: Any) -> Any:
        # DeepSpeed has already clipped, or skipped an update whose norm is not finite.
        norm = super()._clip_grad_norm(model)
        self._stop_unless_finite(float(norm), "gradient norm")
        return norm

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer with our parameter groups."""
        target: Any = self.model if model is None else model
        optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, target)
        groups = parameter_groups(target, self.config, {*self.get_decay_parameter_names(target)})
        self.optimizer_cls_and_kwargs = (optimizer, {**options, "params": groups})
        return super().create_optimizer(model)

    def _get_learning_rate(self) -> float:
        # Called after every update, before the schedule advances.
        optimizer: Any = self.optimizer
        self.rates_of_update = rates_of(optimizer.param_groups)
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the values of an update, with the objective's metrics and, where parts have their own, all rates."""
        if self.objective is not None and "loss" in logs:
            logs |= self.objective.metrics(self._over_ranks)
        if "learning_rate" in logs and self.config.learning_rates:
            logs |= {f"learning_rate/{part}": rate for part, rate in self.rates_of_update.items()}
        super().log(logs, start_time)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if (
            checkpoint is not None
            and run_checkpoints.is_universal(Path(checkpoint))
            and self.config.parallel == "zero3"
        ):
            engine: Any = self.deepspeed
            sharding.repair_universal(engine.optimizer.optimizer, Path(checkpoint))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: Transformers' estimate ignores the vision tower and iterates over all parameters each time."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the model with merged adapters, and the adapters beside it."""
        if self.config.lora and self.args.should_save:
            model: Any = self.model
            state = model.state_dict() if state_dict is None else state_dict
            adapter = Path(str(output_dir)) / lora.ADAPTER
            lora.save_adapter(adapter, state, self.config.lora, self.config.trainable)
            state_dict = lora.merge_adapters(state, self.config.lora)
        super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.config.lora:
            target: Any = self.model if model is None else model
            lora.load_adapter(target, Path(resume_from_checkpoint) / lora.ADAPTER)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save the whole state, then mark it complete, then remove older checkpoints."""
        folder, begun = self.config.out_dir / f"checkpoint-{self.state.global_step}", time.monotonic()
        self.stop_unless_weights_are_finite()
        with run_checkpoints.save_or_clean_up(folder):
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                self.processor.save_pretrained(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            run_checkpoints.mark_complete(folder, processes=self.args.world_size)
            run_checkpoints.keep_newest(folder.parent, self.config.save_total_limit, self.config.keep_every)
        self.times.saved(time.monotonic() - begun)

    def listed_ids(self) -> str:
        """The first row ids of the current update."""
        return _join_ids(self.ids_of_update)

    def stop_unless_weights_are_finite(self) -> None:
        """Raise `ValueError` before broken weights are saved, because no loss checks the last update."""
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]  # type: ignore[union-attr]
        # Under ZeRO-3 a process holds its shard of each.
        bad = [name for name, p in trained if not bool(torch.isfinite(getattr(p, "ds_tensor", p)).all())]
        if bad:
            raise ValueError(
                f"after update {self.state.global_step} {len(bad)} of {len(trained)} trained tensors hold NaN or "
                f"infinity, such as {bad[0]}; they were not saved. Lower the learning rate and start again: the run "
                f"resumes from its last checkpoint, if it has one"
            )

    def _stop_unless_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise ValueError(
                f"the {what} is {value} at update {self.state.global_step + 1}, of rows {self.listed_ids()}; "
                f"stopped before the update. Look at these rows, or lower the learning rate"
            )


def trainer_arguments(config: TrainConfig, plan: RunPlan) -> TrainingArguments:
    """The Trainer's arguments for this config and plan."""
    on_gpu = torch.cuda.is_available()
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    args = TrainingArguments(
        output_dir=str(config.out_dir),
        per_device_train_batch_size=config.device_batch,
        gradient_accumulation_steps=plan.accumulation,
        max_steps=plan.n_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup_ratio * plan.n_steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=optimizer_name(config),
        seed=config.seed,
        use_cpu=not on_gpu,
        ddp_backend=None if on_gpu or launched == 1 else "gloo",
        bf16=resolve_precision(config.precision) == "bfloat16",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=plan.n_steps,  # the last update; `SaveTimes` decides about the others
        save_total_limit=None,  # our own code keeps the old one until the new one is complete
        dataloader_num_workers=config.workers if config.workers is not None else 4 * on_gpu,
        remove_unused_columns=False,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        log_level="warning",
        **sharding.trainer_settings(config),
    )
    assert args.world_size == launched, f"{launched} processes were launched but {args.world_size} joined"
    assert args.world_size == plan.world_size, f"planned for {plan.world_size} processes, not {args.world_size}"
    return args


def _join_ids(ids: list[str]) -> str:
    more = f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
    return ", ".join(ids[:_IDS_SHOWN]) + more

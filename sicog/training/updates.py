"""Plan the rows of each update from the config and the rows' lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sicog.data.batching import RunPlan, plan_run
from sicog.data.packing import (
    PackLimits,
    PackRows,
    check_enough_rows,
    check_micro_batches,
    plan_epoch,
    plan_steps,
)
from sicog.model.lengths import RowLengths
from sicog.stages.storage import read_json, write_json
from sicog.training.config import TrainConfig

if TYPE_CHECKING:
    from sicog.model.configuration import SicogConfig

PLAN = "plan.json"
_BATCHES = "micro_batches_of_an_update"
_VIEWS_OF_A_ROW = 8  # seven slices and the thumbnail
_FAR_FROM_BATCH = 0.25  # as a share of the global batch


def plan_updates(config: TrainConfig, lengths: RowLengths, model: SicogConfig, world_size: int) -> RunPlan:
    """The run's plan, the same on every rank. Raises `ValueError` if rows, batch and limits do not match."""
    global_batch = config.rows_per_update(world_size)
    if config.packing == "off":
        return plan_run(
            lengths.tokens,
            global_batch=global_batch,
            device_batch=config.device_batch,
            world_size=world_size,
            epochs=config.epochs,
            max_steps=config.max_steps,
            seed=config.seed,
            group_by_length=config.group_by_length,
        )
    from sicog.estimates.arithmetic.flops import row_cost

    # The plan does not depend on activation checkpointing, which may change when a run resumes.
    rows = PackRows.of(lengths, row_cost(model, config.trainable).of(lengths))
    limits = pack_limits(config, lengths)
    how: dict[str, Any] = {"global_batch": global_batch, "world_size": world_size, "seed": config.seed}
    how |= {"epochs": config.epochs, "max_steps": config.max_steps}
    if config.packing == "step":
        return plan_steps(rows, limits, **how)
    return plan_epoch(rows, limits, **how, update_batches=_update_batches_of_run(config))


def remember_plan(config: TrainConfig, plan: RunPlan) -> None:
    """Store the number of micro-batches that a packed run needs if it resumes with another number of processes."""
    if config.packing == "epoch":
        write_json(config.out_dir / PLAN, {_BATCHES: plan.accumulation * plan.world_size})


def check_divides(config: TrainConfig, world_size: int) -> None:
    """Raise `ValueError` if a started run cannot resume with this many processes, before its data is read."""
    global_batch = config.rows_per_update(world_size)
    if config.packing == "step":
        check_enough_rows(global_batch, world_size)
    if config.packing == "epoch" and (n := _update_batches_of_run(config)) is not None:
        check_micro_batches(n, world_size)


def pack_limits(config: TrainConfig, lengths: RowLengths) -> PackLimits:
    """The limits of a packed micro-batch, with the config's defaults filled in."""
    conversations = config.device_batch * config.conversations_per_row
    views = max(conversations * _VIEWS_OF_A_ROW, int(lengths.views.max(initial=0)))
    return PackLimits(config.pack_tokens or conversations * config.max_length, config.pack_views or views)


def packing_summary(plan: RunPlan, lengths: RowLengths, global_batch: int) -> str:
    """One line for the log: how many micro-batches make an update, how full they are, and how many rows they hold."""
    rows = len(plan.rows) / plan.n_steps
    useful = plan.useful_token_shares(lengths.tokens).mean()
    far = abs(rows / global_batch - 1) > _FAR_FROM_BATCH
    advice = f"; smaller pack_tokens or pack_views would be closer to global_batch {global_batch}" if far else ""
    return (
        f"{plan.n_steps} updates of {plan.accumulation} packed micro-batch(es) on each of {plan.world_size} "
        f"process(es), {rows:.1f} rows an update on average, {useful:.1%} of the positions useful{advice}"
    )


def _update_batches_of_run(config: TrainConfig) -> int | None:
    begun = config.out_dir / PLAN
    return int(read_json(begun)[_BATCHES]) if begun.is_file() else None

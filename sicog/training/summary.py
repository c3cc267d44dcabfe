"""Print the start of a run's log: a table of the parts, the batch, and the kind of computation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from sicog.console import say, stderr_console
from sicog.data.batching import RunPlan
from sicog.model.kernels.choice import unfused_warning
from sicog.model.lengths import RowLengths
from sicog.training.config import TrainConfig
from sicog.training.updates import packing_summary

if TYPE_CHECKING:
    from torch import nn

    from sicog.model.modeling import SicogForConditionalGeneration
    from sicog.training.fitting import Fit


def print_summary(
    model: SicogForConditionalGeneration,
    config: TrainConfig,
    plan: RunPlan,
    batch: str,
    lengths: RowLengths,
    fit: Fit | None = None,
) -> None:
    """Print the table and the lines. batch: of `batch_line` for the user's config. fit: what `auto` has chosen."""
    from sicog.training.parts import parts

    console = stderr_console()
    console.print(_parts_table(parts(model), config))
    run = f"run: {plan.n_steps:,} updates of {len(plan.rows):,} rows in all"
    if config.packing != "off":
        run = f"run: {packing_summary(plan, lengths, config.rows_per_update(plan.world_size))}"
    for line in (batch, run, how_line(config, fit), _attention_line(model)):
        say(line)
    if warning := unfused_warning(config.kernels, config.compile):
        say(warning, style="yellow")


def batch_line(config: TrainConfig, world_size: int) -> str:
    """The batch arithmetic of an update, with a warning if exported sizes give another batch than the paper's.

    Raises `ValueError` if the sizes do not agree.
    """
    rows = config.rows_per_update(world_size)
    packed = f", packed (packing: {config.packing})" if config.packing != "off" else ""
    line = f"batch: {rows} rows per update of {world_size} process(es){packed}"
    if not packed or config.accumulation is not None:
        steps = rows // (config.device_batch * world_size)
        product = f"{config.device_batch} rows a device x {steps} accumulation steps x {world_size} process(es)"
        line = f"batch: {product} = {rows} rows per update{packed}"
    if config.accumulation is None or rows == config.paper_batch or config.stage == "dpo":
        return line
    return (
        f"{line}\n  WARNING: the paper's {config.stage} has {config.paper_batch} rows per update, not {rows}; "
        f"leave the accumulation (ACCU_STEPS) out to have it follow from GLOBAL_BATCH, {config.paper_batch} by default"
    )


def how_line(config: TrainConfig, fit: Fit | None = None) -> str:
    """The settings of computation: precision, parallelism, kernels and so on. fit: what `auto` has chosen."""
    level = str(fit or config.gradient_checkpointing)
    words: dict[str, str] = {"precision": config.precision, "gradient checkpointing": level}
    words |= {"optimizer": config.optimizer, "kernels": config.kernels, "compiled": "yes" if config.compile else "no"}
    words |= {"parallel": config.parallel + (" with offload" if config.offload else "")}
    words |= {"LoRA rank": str(config.lora.r)} if config.lora else {}
    return ", ".join(f"{name}: {value}" for name, value in words.items())


def _attention_line(model: SicogForConditionalGeneration) -> str:
    def kind(part: nn.Module) -> str:
        return str(part.config._attn_implementation)  # type: ignore[union-attr]

    return f"attention: vision tower {kind(model.vision_tower)}, language model {kind(model.language_model)}"


def _parts_table(modules: dict[str, nn.Module], config: TrainConfig) -> Table:
    from sicog.training.parts import size

    table = Table("part", "parameters", "trainable", "dtype", "learning rate")
    for column in (table.columns[1], table.columns[2], table.columns[4]):
        column.justify = "right"
    total, rates = [0, 0], {str(part): rate for part, rate in config.learning_rates.items()}
    for name, module in modules.items():
        counts = [sum(size(p) for p in module.parameters() if p.requires_grad or not only) for only in (False, True)]
        total = [t + c for t, c in zip(total, counts, strict=True)]
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})
        rate = f"{rates.get(name, config.learning_rate):g}" if counts[1] else "frozen"
        table.add_row(name, *(f"{c:,}" for c in counts), ", ".join(dtypes), rate)
    table.add_section()
    table.add_row("total", *(f"{t:,}" for t in total))
    return table

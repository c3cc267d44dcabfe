"""The cost of a recipe's step in tokens, GPU-hours, disk and memory: computed from shapes, never measured.

training     see `sicog.estimates.resources`
sampling     prefill: FLOPs of a forward pass over image and prompt, for every style;
             decoding: tokens / batch x (weights + keys and values of the batch) bytes / (bandwidth x decode_share);
             disk: 5 bytes a token; memory: weights, keys and values
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sicog.estimates.arithmetic.assumed import image_size
from sicog.estimates.counts import Rows
from sicog.estimates.shapes import Shapes
from sicog.generation.config import SampleConfig
from sicog.runs.recipe import Recipe, Step
from sicog.stages.launch import gpus
from sicog.training.config import TrainConfig

if TYPE_CHECKING:
    from sicog.model.configuration import SicogConfig

_BYTES_PER_TOKEN = 5  # of text in a file
_PER_HOUR = 3600


@dataclass(frozen=True)
class Cost:
    """tokens: all positions of a training, or the tokens that sampling generates. hours: of one device, all added up.

    disk: bytes at most while the step runs. left: bytes that stay after it. memory: bytes on each device.
    """

    tokens: float
    hours: float
    disk: float
    left: float
    memory: float
    devices: int


def most_disk(costs: Sequence[Cost]) -> float:
    """The most bytes on disk when these steps run one after another; each adds to what the ones before it left."""
    left, most = 0.0, 0.0
    for cost in costs:
        most = max(most, left + cost.disk)
        left += cost.left
    return most


def cost_of(step: Step, rows: Rows | None, shapes: Shapes) -> Cost | None:
    """The cost of a step; None for steps that take little, and where rows, shapes or the batch are unknown."""
    if rows is None:
        return None
    if isinstance(step.config, TrainConfig):
        return _training(step, step.config, rows.n, shapes)
    if isinstance(step.config, SampleConfig):
        return _sampling(step, step.config, rows.n, shapes)
    return None


def _training(step: Step, config: TrainConfig, rows: int, shapes: Shapes) -> Cost | None:
    model, assume = shapes.of_source(config.model), shapes.recipe.assume
    if model is None:
        return None
    from sicog.estimates import resources  # imports torch, which a plan without shapes does not need
    from sicog.estimates.arithmetic.flops import work_of

    devices = devices_of(step, shapes.recipe)
    config = resources.with_planned_level(config, model, devices)
    try:
        updates = resources.updates_of(config, rows, devices)
    except ValueError:  # sizes of a batch that do not agree: `refusals` reports them
        return None
    size, text = image_size(assume.image), assume.prompt_tokens + assume.answer_tokens
    work = work_of(model, size, text, slicing=config.slicing, supervised=assume.answer_tokens)
    flops = updates.rows * resources.row_flops(config, model, work)
    left, checkpoints = resources.written_bytes(config, model, devices)
    return Cost(
        tokens=updates.rows * config.conversations_per_row * work.positions,
        hours=assume.seconds(flops=flops) / _PER_HOUR,
        disk=left + checkpoints,
        left=left + checkpoints if config.keep_checkpoints else left,
        memory=resources.memory_of(config, model, devices).total(resources.sharing_of(config, devices)),
        devices=devices,
    )


def _sampling(step: Step, config: SampleConfig, rows: int, shapes: Shapes) -> Cost | None:
    assume = shapes.recipe.assume
    model = shapes.of_checkpoint(config.checkpoint) if config.checkpoint else None
    if model is None:
        return None
    from sicog.estimates.arithmetic.flops import forward_flops, parameters, work_of

    size = None if config.task == "text" else image_size(assume.image)
    prompt = work_of(model, size, assume.prompt_tokens, slicing=config.slicing, supervised=0)
    answer = min(assume.answer_tokens, config.max_new_tokens)
    tokens = rows * config.candidates_per_query * answer
    prompts = len(config.wanted_styles)
    if config.closer:
        prompts += config.closer.columns * config.closer.rows * len(config.closer.styles)
    prefill = rows * prompts * sum(forward_flops(model, prompt).values())
    weights = parameters(model)
    cache = _cache_bytes(model) * config.batch_size * (prompt.positions + answer)
    bytes_moved = tokens / config.batch_size * (2 * weights["language_model"] + cache)
    return Cost(
        tokens=tokens,
        hours=assume.seconds(flops=prefill, bytes_moved=bytes_moved) / _PER_HOUR,
        disk=tokens * _BYTES_PER_TOKEN,
        left=tokens * _BYTES_PER_TOKEN,
        memory=2 * sum(weights.values()) + cache,
        devices=devices_of(step, shapes.recipe),
    )


def _cache_bytes(model: SicogConfig) -> int:
    """Bytes of the keys and values of one position in bfloat16."""
    text: Any = model.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * width * 2)


def devices_of(step: Step, recipe: Recipe) -> int:
    """The number of devices that work on a step: by the launcher for trainings, else its workers or array tasks."""
    launcher = recipe.launcher
    if isinstance(step.config, TrainConfig):
        if launcher.on == "slurm":
            return step.job.nodes * max(1, step.job.gpus)
        return (launcher.processes or max(1, len(gpus()))) if launcher.on == "torchrun" else 1
    if launcher.on == "slurm":
        return launcher.array_tasks
    return int(getattr(step.config, "workers", 1) or 1)

"""What a step will take in tokens, FLOPs, GPU-hours, disk and memory: computed from shapes, never measured.

training     FLOP of a row as `sicog flops` counts them x rows;    hours = FLOP / (tflops x utilisation)
sampling     prefill: FLOP of a forward pass of image and prompt, of every style;
             decoding: tokens / batch x (weights + keys and values of the batch) bytes / (bandwidth x decode_share)
disk         of a training its weights, 2 bytes each under ZeRO, else 4, and its checkpoints while it runs, which have
             12 bytes (else 8) more of a trained weight; of candidates 5 bytes a token
memory       of a device: weights, gradients, optimizer and the heaviest micro-batch; of sampling weights, keys, values
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sicog.estimates.counts import Rows
from sicog.model.hub import find_model
from sicog.runs.config import Assumed
from sicog.runs.recipe import Recipe, Step

if TYPE_CHECKING:
    from sicog.model.configuration import SicogConfig
    from sicog.training.config import ModelSource, TrainConfig

_BYTES_PER_TOKEN = 5  # of text in a file
_PER_HOUR = 3600


@dataclass(frozen=True)
class Cost:
    """tokens: all positions of a training, generated ones of sampling. hours: of one device. disk: bytes at most while
    it runs, left: those that it leaves. memory: bytes of each device. per_row: what `tokens` are made of."""

    tokens: float
    hours: float
    disk: float
    left: float
    memory: float
    devices: int
    per_row: str


def most_disk(costs: Sequence[Cost]) -> float:
    """Bytes at most while these steps run one after another, each beside what those before it have left."""
    left, most = 0.0, 0.0
    for cost in costs:
        most = max(most, left + cost.disk)
        left += cost.left
    return most


class Shapes:
    """The shapes of each step's model: from its files, from the step that will make it, or those assumed."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.trained: Mapping[Path, ModelSource] = {
            step.folder: step.config.model  # type: ignore[attr-defined]
            for step in recipe.steps
            if step.verb.name == "train"
        }

    def of_checkpoint(self, path: Path) -> SicogConfig | None:
        """Of a checkpoint that is there or that a step will write."""
        if (path / "config.json").is_file():
            from sicog.estimates.rows import read_config

            return read_config(path)
        return self.of_source(self.trained[path]) if path in self.trained else None

    def of_source(self, source: ModelSource) -> SicogConfig | None:
        """Of a training's model; None where nothing is known of it."""
        if source.checkpoint is not None:
            return self.of_checkpoint(source.checkpoint)
        assert source.vision_tower is not None and source.language_model is not None
        parts = [find_model(part) for part in (source.vision_tower, source.language_model)]
        if all(parts):
            from sicog.estimates.training import read_shapes

            found = dict(zip(("vision_tower", "language_model"), parts, strict=True))
            return read_shapes(source.model_copy(update=found))[0]
        inside = any(self.recipe.run_dir in part.parents for part in (source.vision_tower, source.language_model))
        return None if inside else self._assumed(source)

    def _assumed(self, source: ModelSource) -> SicogConfig | None:
        file = self.recipe.assume.model
        if file is None:
            return None
        import json

        from sicog.model.configuration import SicogConfig

        config: SicogConfig = SicogConfig.from_dict(json.loads(file.read_bytes()) | source.config)
        return config


def cost_of(step: Step, rows: Rows | None, shapes: Shapes) -> Cost | None:
    """What a step will take; None for steps that take little, and where rows or shapes are not known."""
    if rows is None:
        return None
    if step.verb.name == "train":
        return _training(step, rows.n, shapes)
    if step.verb.name == "sample":
        return _sampling(step, rows.n, shapes)
    return None


def _training(step: Step, rows: int, shapes: Shapes) -> Cost | None:
    config: TrainConfig = step.config  # type: ignore[assignment]
    model, assume = shapes.of_source(config.model), shapes.recipe.assume
    if model is None:
        return None
    from sicog.estimates.arithmetic.flops import (  # torch, which a plan without shapes does not need
        training_flops,
        work_of,
    )
    from sicog.estimates.arithmetic.memory import activations, states, states_without_deepspeed
    from sicog.estimates.rows import image_size
    from sicog.estimates.training import heaviest

    devices = devices_of(step, shapes.recipe)
    size, text = image_size(assume.image), assume.prompt_tokens + assume.answer_tokens
    work = work_of(model, size, text, slicing=config.slicing, supervised=assume.answer_tokens)
    again = config.gradient_checkpointing == "full"
    passes = rows * config.epochs
    if config.max_steps:
        passes = config.max_steps * config.rows_per_update(devices)
    passes *= config.conversations_per_row
    flops = passes * sum(training_flops(model, work, config.whole_parts, checkpointing=again).values())
    zero = {"zero2": 2, "zero3": 3, "auto": 2 if devices > 1 else None}.get(config.parallel)
    kept = states_without_deepspeed(model, config.whole_parts)
    if zero is not None:
        kept = states(model, config.whole_parts, zero_stage=zero, devices=devices)
    batch = sum(
        activations(
            model, heaviest(config, model), config.whole_parts, checkpointing=config.gradient_checkpointing
        ).values()
    )
    left, checkpoints = _written_bytes(config, model, sharded=zero is not None)
    return Cost(
        tokens=passes * work.positions,
        hours=flops / (assume.tflops * 1e12 * assume.utilisation) / _PER_HOUR,
        disk=left + checkpoints,
        left=left + checkpoints if config.keep_checkpoints else left,
        memory=kept.total + batch,
        devices=devices,
        per_row=f"{work.positions:,} positions a row ({work.image_tokens:,} of the image)",
    )


def _written_bytes(config: TrainConfig, model: SicogConfig, *, sharded: bool) -> tuple[float, float]:
    """The trained model, and the checkpoints beside it while it is trained."""
    from sicog.estimates.arithmetic.flops import parameters, trained_parameters

    weights = sum(parameters(model).values()) * (2 if sharded else 4)
    states = trained_parameters(model, config.whole_parts) * (12 if sharded else 8)
    return weights, config.save_total_limit * (weights + states)


def _sampling(step: Step, rows: int, shapes: Shapes) -> Cost | None:
    config: Any = step.config
    assume = shapes.recipe.assume
    model = shapes.of_checkpoint(config.checkpoint) if config.checkpoint else None
    if model is None:
        return None
    from sicog.estimates.arithmetic.flops import forward_flops, parameters, work_of
    from sicog.estimates.rows import image_size

    size = None if config.task == "text" else image_size(assume.image)
    prompt = work_of(model, size, assume.prompt_tokens, slicing=config.slicing, supervised=0)
    n = config.candidates_per_query
    answer = min(assume.answer_tokens, config.max_new_tokens)
    tokens = rows * n * answer
    prompts = len(config.wanted_styles)
    if config.closer:
        prompts += config.closer.columns * config.closer.rows * len(config.closer.styles)
    prefill = rows * prompts * sum(forward_flops(model, prompt).values())
    weights = parameters(model)
    cache = _cache_bytes(model) * config.batch_size * (prompt.positions + answer)
    bytes_moved = tokens / config.batch_size * (2 * weights["language_model"] + cache)
    seconds = prefill / (assume.tflops * 1e12 * assume.utilisation) + _decoding_seconds(bytes_moved, assume)
    return Cost(
        tokens=tokens,
        hours=seconds / _PER_HOUR,
        disk=tokens * _BYTES_PER_TOKEN,
        left=tokens * _BYTES_PER_TOKEN,
        memory=2 * sum(weights.values()) + cache,
        devices=devices_of(step, shapes.recipe),
        per_row=f"{n} candidates of {answer} tokens a row",
    )


def _decoding_seconds(bytes_moved: float, assume: Assumed) -> float:
    return bytes_moved / (assume.bandwidth * 1e12 * assume.decode_share)


def _cache_bytes(model: SicogConfig) -> int:
    """Keys and values of one position in bfloat16."""
    text: Any = model.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * width * 2)


def devices_of(step: Step, recipe: Recipe) -> int:
    """How many devices work on a step: trainings' by the launcher, of other steps their workers or array tasks."""
    from sicog.stages.launch import gpus

    launcher = recipe.launcher
    if step.verb.name == "train":
        if launcher.on == "slurm":
            return step.job.nodes * max(1, step.job.gpus)
        return (launcher.processes or max(1, len(gpus()))) if launcher.on == "torchrun" else 1
    if launcher.on == "slurm":
        return launcher.array_tasks
    return int(getattr(step.config, "workers", 1) or 1)

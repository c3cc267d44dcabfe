"""`sicog train CONFIG --dry-run`: commands, batch, memory and time of a stage, with nothing loaded and nothing written.

Memory is computed by `sicog.estimates.arithmetic.memory`; time from the FLOPs of a sample of the rows, at a
device's rate and a utilisation that are assumed, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from sicog.data.mixture import read_mixture
from sicog.data.preferences import PairSource
from sicog.estimates.preflight import is_finished, refusals
from sicog.estimates.readable import duration, power_of_ten
from sicog.model.hub import find_model, local_model
from sicog.model.lengths import RowLengths
from sicog.records import Dropped
from sicog.runs.verbs import VERBS
from sicog.training.config import ModelSource, TrainConfig
from sicog.training.parallel.nodes import planned_nodes
from sicog.training.summary import batch_line, how_line
from sicog.training.updates import pack_limits

if TYPE_CHECKING:
    from sicog.data.image_folder import ImageFolder
    from sicog.data.measure import Measured, TokenMeasure
    from sicog.estimates.arithmetic.flops import Work
    from sicog.model.configuration import SicogConfig
    from sicog.model.processing import SicogProcessor

ASSUMED_TFLOPS, ASSUMED_UTILISATION = 312.0, 0.45  # an A100's data sheet; an 8B vision-language model's best known
_SAMPLE = 512  # rows


@dataclass(frozen=True)
class Assumed:
    """What the time is computed with: FLOP/s of a device in 10^12, and the share of them that is used."""

    tflops: float = ASSUMED_TFLOPS
    utilisation: float = ASSUMED_UTILISATION


@dataclass(frozen=True)
class Plan:
    """What a dry run shows. would_start: whether nothing is known for which a start would be refused."""

    lines: list[str]
    would_start: bool


def plan_lines(config: TrainConfig, arguments: Sequence[str], environment: Mapping[str, str], assumed: Assumed) -> Plan:
    """The plan of a run. arguments: those of `sicog` that would start it. Raises `ValueError` for a batch that is none.

    What cannot be known because an input is missing is left out, and the input named.
    """
    nodes = planned_nodes(environment)
    lines = [*nodes.commands(arguments), *batch_line(config, nodes.world_size).split("\n"), how_line(config)]
    gone = missing(config)
    bad = [f"MISSING {name}: {path} does not exist" for name, path in gone.items()]
    bad += [f"REFUSED {problem}" for problem in refusals(VERBS["train"], config, nodes.world_size)]
    lines += bad
    if not bad and is_finished(VERBS["train"], config, nodes.world_size):
        lines.append(f"finished already: {config.out_dir} holds this training, and a start would do nothing")
    if any(name.startswith("model.") for name in gone):
        return Plan([*lines, "memory and time: not known before the model's folders are there"], would_start=False)
    model_config, processor = read_shapes(config.model.located())
    lines += _memory_lines(config, model_config, nodes.world_size)
    if any(name.startswith("data.") for name in gone):
        return Plan([*lines, "time: not known before the data is there"], would_start=False)
    n_rows, known, unusable = sample_rows(config, processor)
    if not len(known):
        lines.append(f"rows: {n_rows:,}; of {unusable} looked at, none could be used: time is not known")
        return Plan(lines, would_start=False)
    enough = n_rows >= config.rows_per_update(nodes.world_size)
    lines.append(_rows_line(n_rows, known, unusable))
    lines += _time_lines(config, model_config, n_rows, known, nodes.world_size, assumed)
    return Plan(lines, would_start=enough and not bad)


def missing(config: TrainConfig) -> dict[str, Path]:
    """The inputs that do not exist, by their config key."""
    data = config.data
    is_gone = data.path is not None and data.path.suffix.lower() in (".yaml", ".yml") and not data.path.is_file()
    of_data = {"data.path": data.path} if is_gone else data.inputs()  # those behind a mixture, once it can be read
    inputs = {**of_data, "data.image_folder": data.image_folder}
    gone = {name: path for name, path in config.model.inputs().items() if find_model(path) is None}
    return gone | {name: path for name, path in inputs.items() if path is not None and not path.exists()}


def read_shapes(source: ModelSource) -> tuple[SicogConfig, SicogProcessor]:
    """The model's configuration and its processor, from files that hold no weights."""
    from transformers import AutoConfig, AutoTokenizer

    from sicog.estimates.rows import read_config
    from sicog.model.checkpoints import clip_vision_config, read_processor, token_ids
    from sicog.model.configuration import SicogConfig
    from sicog.model.processing import SicogProcessor

    if source.checkpoint is not None:
        return read_config(source.checkpoint), read_processor(str(source.checkpoint))
    vision = clip_vision_config(str(source.vision_tower))
    assert source.language_model is not None  # the config says so
    language_model = local_model(source.language_model, "model.language_model")
    text, tokenizer = AutoConfig.from_pretrained(language_model), AutoTokenizer.from_pretrained(language_model)
    fields = {**token_ids(tokenizer, text.vocab_size), **source.config}
    config = SicogConfig(vision_config=vision, text_config=text, **fields)
    image = source.image.model_dump()
    return config, SicogProcessor.from_config(config, tokenizer, turn_format=source.turn_format or "chatml", **image)


def sample_rows(config: TrainConfig, processor: SicogProcessor) -> tuple[int, RowLengths, int]:
    """The number of rows, the lengths of some that can be used, drawn from all, and how many others were drawn.

    The rows are read as the run reads them, but their tables are made in a folder that is gone afterwards.
    """
    from sicog.data.image_folder import ImageFolder
    from sicog.data.measure import TokenMeasure
    from sicog.data.mixture_rows import measure_mixture

    data = config.data
    with TemporaryDirectory() as folder:
        cache = Path(folder)
        images = ImageFolder(data.image_folder, data.image_roots, check="header", cache=cache)
        measure = TokenMeasure(processor, config.slicing)
        if config.objective == "dpo":
            return _sample_pairs(config, images, measure)
        mixture = read_mixture(data.chosen_sources(), config.seed, cache)
        n = len(mixture.selection)
        chosen = replace(mixture, selection=mixture.selection[_drawn(n)])
        usable = measure_mixture(chosen, measure, images, max_length=config.max_length, cache=cache)
        return n, usable.lengths, len(chosen.selection) - len(usable.lengths)


def _sample_pairs(config: TrainConfig, images: ImageFolder, measure: TokenMeasure) -> tuple[int, RowLengths, int]:
    """As `sample_rows`, of pairs: what is measured are their conversations, two of each."""
    pairs = PairSource(config.data.chosen_sources(), config.seed)
    known: list[Measured] = []
    drawn = _drawn(len(pairs))
    for index in drawn.tolist():
        (pair,) = pairs.read(index, index + 1)
        if isinstance(pair, Dropped):
            continue
        try:  # of an image that cannot be used, `ImageProblem` is a `ValueError` too
            sizes = [images.measure(images.find(name)) for name in pair.images]
            both = [measure(pair.turns(answer), sizes) for answer in (pair.chosen, pair.rejected)]
        except ValueError:
            continue
        if max(m.tokens for m in both) <= config.max_length:
            known += both
    return len(pairs), RowLengths.of(np.array(known, dtype=np.int32).reshape(-1, 4)), 2 * len(drawn) - len(known)


def _drawn(n: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).choice(n, min(n, _SAMPLE), replace=False))


def _rows_line(n_rows: int, known: RowLengths, unusable: int) -> str:
    tokens, views = known.tokens, known.views
    return (
        f"rows: {n_rows:,}; of {len(known) + unusable} conversations looked at {unusable} cannot be used, the others "
        f"have {tokens.mean():,.0f} tokens on average (at most {tokens.max():,}) and {views.mean():.1f} views"
    )


def _time_lines(
    config: TrainConfig, model: SicogConfig, n_rows: int, known: RowLengths, world_size: int, assumed: Assumed
) -> list[str]:
    from sicog.estimates.arithmetic.flops import row_cost

    batch = config.rows_per_update(world_size)
    if n_rows < batch:
        return [
            f"TOO FEW ROWS: {n_rows:,}, and an update has {batch}; the run would be refused: set a smaller global_batch"
        ]
    updates = config.max_steps or max(1, math.ceil(config.epochs * n_rows / batch - 1e-9))
    of_row = float(np.mean(row_cost(model, config.whole_parts).of(known))) * config.conversations_per_row
    flops = of_row * updates * batch
    seconds = flops / (assumed.tflops * 1e12 * assumed.utilisation * world_size)
    device = " of an A100, whatever this machine has" if assumed.tflops == ASSUMED_TFLOPS else ""
    return [
        f"time: {updates:,} updates of {batch} rows, {power_of_ten(flops)} FLOP: {duration(seconds)} on "
        f"{world_size} device(s) of {assumed.tflops:g} TFLOP/s, of which {100 * assumed.utilisation:g} % are used",
        f"  computed for these assumed figures{device} (--device-tflops, --utilisation); reading, saving and waiting "
        f"are not counted",
    ]


def _memory_lines(config: TrainConfig, model: SicogConfig, world_size: int) -> list[str]:
    from sicog.estimates.arithmetic.memory import ZERO_STAGES, activations, states, states_without_deepspeed

    work, trained = heaviest(config, model), config.whole_parts
    batch = sum(activations(model, work, trained, checkpointing=config.gradient_checkpointing).values())
    kinds = {"no DeepSpeed": states_without_deepspeed(model, trained)}
    for stage in ZERO_STAGES:
        kinds[f"ZeRO-{stage}"] = states(model, trained, zero_stage=stage, devices=world_size)
    sums = ", ".join(f"{name} {(s.total + batch) / 2**30:.1f}" for name, s in kinds.items())
    return [
        f"memory: GiB on each of {world_size} device(s), computed: {sums}",
        f"  of it {batch / 2**30:.1f} for the heaviest micro-batch allowed, {work.positions:,} positions and "
        f"{len(work.views)} views; {_on_top(config)} come on top",
    ]


def _on_top(config: TrainConfig) -> str:
    adapters = "adapters with their states, " if config.lora else ""
    return f"{adapters}buffers of communication and fragmentation"


def heaviest(config: TrainConfig, model: SicogConfig) -> Work:
    """The largest micro-batch that the config allows, of rows with at most one image, all their text supervised."""
    from sicog.estimates.arithmetic.flops import Work

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

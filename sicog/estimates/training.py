"""`sicog train CONFIG --dry-run`: commands, batch, memory and time of a stage. Loads no weights, writes nothing.

The time follows from the FLOPs of a sample of the rows, at the rate and the utilisation of an assumed device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from sicog.data.mixture import read_mixture
from sicog.data.preferences import PairSource
from sicog.estimates.arithmetic.assumed import A100_TFLOPS, Assumed
from sicog.estimates.arithmetic.readable import duration, power_of_ten
from sicog.estimates.preflight import refusals, work_is_finished
from sicog.estimates.shapes import read_shapes
from sicog.model.hub import find_model
from sicog.model.lengths import RowLengths
from sicog.records import Dropped
from sicog.runs.verbs import VERBS
from sicog.training.config import TrainConfig
from sicog.training.parallel.nodes import planned_nodes
from sicog.training.summary import batch_line, how_line

if TYPE_CHECKING:
    from sicog.data.image_folder import ImageFolder
    from sicog.data.measure import Measured, TokenMeasure
    from sicog.model.configuration import SicogConfig
    from sicog.model.processing import SicogProcessor

_SAMPLE_ROWS = 512


@dataclass(frozen=True)
class Plan:
    """The lines that a dry run prints. would_start: whether no reason is known to refuse a start."""

    lines: list[str]
    would_start: bool


def plan_lines(config: TrainConfig, arguments: Sequence[str], environment: Mapping[str, str], assumed: Assumed) -> Plan:
    """The plan of a training. arguments: those of `sicog` that would start it.

    Names each missing input, and leaves out what depends on it. Raises `ValueError` when the sizes of a batch do not
    agree.
    """
    nodes = planned_nodes(environment)
    lines = [*nodes.commands(arguments), *batch_line(config, nodes.world_size).split("\n"), how_line(config)]
    absent = missing(config)
    problems = [f"MISSING {name}: {path} does not exist" for name, path in absent.items()]
    problems += [f"REFUSED {problem}" for problem in refusals(VERBS["train"], config, nodes.world_size)]
    lines += problems
    if not problems and work_is_finished(VERBS["train"], config, nodes.world_size):
        lines.append(f"finished already: {config.out_dir} holds this training, and a start would do nothing")
    if any(name.startswith("model.") for name in absent):
        return Plan([*lines, "memory and time: not known until the model's folders exist"], would_start=False)
    model_config, processor = read_shapes(config.model.with_local_folders())
    lines += _memory_lines(config, model_config, nodes.world_size)
    if any(name.startswith("data.") for name in absent):
        return Plan([*lines, "time: not known until the data exists"], would_start=False)
    n_rows, known, unusable = sample_rows(config, processor)
    if not len(known):
        lines.append(f"rows: {n_rows:,}; of {unusable} looked at, none could be used: time is not known")
        return Plan(lines, would_start=False)
    enough = n_rows >= config.rows_per_update(nodes.world_size)
    lines.append(_rows_line(n_rows, known, unusable))
    lines += _time_lines(config, model_config, n_rows, known, nodes.world_size, assumed)
    return Plan(lines, would_start=enough and not problems)


def missing(config: TrainConfig) -> dict[str, Path]:
    """The inputs that do not exist, by their config key."""
    data = config.data
    no_mixture = data.path is not None and data.path.suffix.lower() in (".yaml", ".yml") and not data.path.is_file()
    of_data = {"data.path": data.path} if no_mixture else data.inputs()  # a mixture that exists names files
    inputs = {**of_data, "data.image_folder": data.image_folder}
    models = {name: path for name, path in config.model.inputs().items() if find_model(path) is None}
    return models | {name: path for name, path in inputs.items() if path is not None and not path.exists()}


def sample_rows(config: TrainConfig, processor: SicogProcessor) -> tuple[int, RowLengths, int]:
    """The number of all rows, the lengths of the usable ones in a sample, and the number of unusable ones in it.

    The rows are read as training reads them, but their tables are written to a temporary folder.
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
        chosen = replace(mixture, selection=mixture.selection[_sample(n)])
        usable = measure_mixture(chosen, measure, images, max_length=config.max_length, cache=cache)
        return n, usable.lengths, len(chosen.selection) - len(usable.lengths)


def _sample_pairs(config: TrainConfig, images: ImageFolder, measure: TokenMeasure) -> tuple[int, RowLengths, int]:
    """As `sample_rows` for pairs: measures both conversations of each."""
    pairs = PairSource(config.data.chosen_sources(), config.seed)
    known: list[Measured] = []
    indices = _sample(len(pairs))
    for index in indices.tolist():
        (pair,) = pairs.read(index, index + 1)
        if isinstance(pair, Dropped):
            continue
        try:  # `ImageProblem`, of an unusable image, is a `ValueError` too
            sizes = [images.measure(images.find(name)) for name in pair.images]
            both = [measure(pair.turns(answer), sizes) for answer in (pair.chosen, pair.rejected)]
        except ValueError:
            continue
        if max(m.tokens for m in both) <= config.max_length:
            known += both
    return len(pairs), RowLengths.of(np.array(known, dtype=np.int32).reshape(-1, 4)), 2 * len(indices) - len(known)


def _sample(n: int) -> np.ndarray:
    """Sorted indices of a random sample of `n` rows."""
    return np.sort(np.random.default_rng(0).choice(n, min(n, _SAMPLE_ROWS), replace=False))


def _rows_line(n_rows: int, known: RowLengths, unusable: int) -> str:
    tokens, views = known.tokens, known.views
    return (
        f"rows: {n_rows:,}; of {len(known) + unusable} conversations looked at {unusable} cannot be used, the others "
        f"have {tokens.mean():,.0f} tokens on average (at most {tokens.max():,}) and {views.mean():.1f} views"
    )


def _time_lines(
    config: TrainConfig, model: SicogConfig, n_rows: int, known: RowLengths, world_size: int, assumed: Assumed
) -> list[str]:
    from sicog.estimates.resources import mean_row_flops, updates_of, with_planned_level

    config = with_planned_level(config, model, world_size)
    updates = updates_of(config, n_rows, world_size)
    if n_rows < updates.batch:
        return [
            f"TOO FEW ROWS: {n_rows:,}, and an update has {updates.batch}; the run would be refused: set a smaller "
            f"global_batch"
        ]
    flops = mean_row_flops(config, model, known) * updates.rows
    seconds = assumed.seconds(flops=flops) / world_size
    device = " of an A100, whatever this machine has" if assumed.tflops == A100_TFLOPS else ""
    return [
        f"time: {updates.n:,} updates of {updates.batch} rows, {power_of_ten(flops)} FLOP: {duration(seconds)} on "
        f"{world_size} device(s) of {assumed.tflops:g} TFLOP/s, of which {100 * assumed.utilisation:g} % are used",
        f"  computed for these assumed figures{device} (--device-tflops, --utilisation); reading, saving and waiting "
        f"are not counted",
    ]


def _memory_lines(config: TrainConfig, model: SicogConfig, world_size: int) -> list[str]:
    from sicog.estimates.resources import memory_of, with_planned_level

    memory = memory_of(config, model, world_size)
    level = with_planned_level(config, model, world_size).gradient_checkpointing
    sums = ", ".join(f"{sharing} {memory.total(sharing) / 2**30:.1f}" for sharing in memory.states)
    return [
        f"memory: GiB on each of {world_size} device(s), computed: {sums}",
        f"  of it {memory.batch / 2**30:.1f} for the heaviest micro-batch allowed, {memory.heaviest.positions:,} "
        f"positions and {len(memory.heaviest.views)} views; {_extra_memory(config)} come on top",
        *([f"  gradient checkpointing: {level} (auto, on 80 GB)"] if config.gradient_checkpointing == "auto" else []),
    ]


def _extra_memory(config: TrainConfig) -> str:
    adapters = "adapters with their states, " if config.lora else ""
    return f"{adapters}buffers of communication and fragmentation"

"""`sicog eval CHECKPOINT --samples K`: sample the questions of a suite, then measure accuracy against K.

It runs the two steps `sample` and `eval-samples`, connected by files as in a recipe.
OUT/DATA-DIGEST/questions-FORM, images/, answers.tsv    the table of the kit or of the user, as queries
OUT/DATA-DIGEST/MODEL-KEY/                              samples and greedy answers
OUT/DATA-DIGEST/curves-KEY/                             output of `eval-samples`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.config.paths import NameOrPath
from sicog.console import say
from sicog.evaluation.config import Style
from sicog.evaluation.forms import FORMS
from sicog.evaluation.kit.question_tables import ANSWERS, data_root, table_file, unpack_table
from sicog.evaluation.names import unique_tails
from sicog.evaluation.sampled.accuracy import DIRECT, CurveConfig, EvalSamplesConfig, Select, eval_samples
from sicog.evaluation.suite import OFFLINE, Benchmark, check_table, chosen_benchmarks, load_suite
from sicog.generation.closer import StyleCount
from sicog.generation.config import SampleConfig
from sicog.generation.sample import sample
from sicog.model.precision import Precision
from sicog.stages.provenance import digest_file, digest_path, digest_value
from sicog.tasks import SHORT_ANSWER, STEP_BY_STEP


class SampledConfig(Config):
    """Config of `sicog eval --samples`."""

    checkpoints: tuple[Path, ...] = Field(min_length=1)
    """The models, named by their folders, with parent folders when two names are equal."""
    suite: NameOrPath
    """Name of a shipped suite, or path of a YAML."""
    only: tuple[str, ...] = ()
    """Benchmarks of the suite to run; empty: all."""
    out_dir: Path
    data_root: Path | None = None
    """Data folder of the kit; null: $LMUData, else ~/LMUData."""
    samples: int = Field(default=8, ge=1)
    """Number of samples per question, model and style."""
    select: tuple[Select, ...] = ("greedy", "vote", "mbr", "oracle")
    """How to choose one of the samples; see `sicog eval-samples --help`."""
    styles: tuple[Style, ...] = Field(default=("direct", "cot"), min_length=1)
    """Styles of the prompts."""
    temperature: float = Field(default=0.7, gt=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_new_tokens: int = Field(default=1200, ge=1)
    batch_size: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    slicing: bool = True
    device: str = "auto"
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _check_checkpoints(self) -> SampledConfig:
        if repeated := next((path for path in self.checkpoints if self.checkpoints.count(path) > 1), None):
            raise ValueError(f"the checkpoint {repeated} is given twice. Remove one")
        return self


def sampled_evaluation(config: SampledConfig) -> list[Path]:
    """Return the curves' folder of each benchmark. Without `only`, benchmarks that need a judge are skipped.

    Raises `ValueError` for a benchmark in `only` that needs a judge, and for a missing or bad table.
    """
    wanted = _string_scored_benchmarks(config)
    root = data_root(config.data_root)
    tables = [(benchmark, table_file(benchmark, root)) for benchmark in wanted]
    for benchmark in wanted:
        if benchmark.table:
            check_table(benchmark)
    # Read all tables before sampling, so that a mistake in the last one is found at once.
    unpacked = [(benchmark, *_unpack_benchmark(config, benchmark, table, root)) for benchmark, table in tables]
    if theirs := [b.name for b in wanted if not b.table]:
        say(f"{', '.join(theirs)}: our own scores of each answer's string, not the kit's figure")
    return [_evaluate_benchmark(config, *one) for one in unpacked]


def _string_scored_benchmarks(config: SampledConfig) -> list[Benchmark]:
    wanted = chosen_benchmarks(load_suite(config.suite), config.only)
    judged = [b.name for b in wanted if b.form not in OFFLINE]
    if judged and (config.only or len(judged) == len(wanted)):
        raise ValueError(
            f"{config.suite}: only a judge model can score {', '.join(judged)}, but samples are scored as strings. "
            f"Remove it from only=[...], or run `sicog eval` without --samples"
        )
    if judged:
        say(f"{', '.join(judged)}: skipped, because only a judge model can score them")
    return [b for b in wanted if b.form in OFFLINE]


def _unpack_benchmark(config: SampledConfig, benchmark: Benchmark, table: Path, root: Path) -> tuple[Path, Path]:
    """Return the benchmark's folder, named by the table's content, and the folder of its queries."""
    name = benchmark.data_name if benchmark.table else f"{benchmark.dataset}_{digest_file(table)[:8]}"
    questions, n_bare = unpack_table(benchmark, table, root, config.out_dir / name)
    if n_bare:
        say(f"{benchmark.name}: {n_bare} rows without an image are skipped, as in the kit")
    return config.out_dir / name, questions


def _evaluate_benchmark(config: SampledConfig, benchmark: Benchmark, folder: Path, questions: Path) -> Path:
    curves = []
    for checkpoint, name in zip(config.checkpoints, unique_tails(config.checkpoints), strict=True):
        runs = {
            kind: _sample_questions(config, benchmark, questions, checkpoint, kind) for kind in ("samples", "greedy")
        }
        for style in config.styles:
            curves.append(CurveConfig(model=name, style=style, runs=(runs["samples"],), greedy=runs["greedy"]))
    values: dict[str, Any] = {"curves": tuple(curves), "answers": folder / ANSWERS, "form": benchmark.form}
    values |= {"select": config.select, "seed": config.seed, "title": benchmark.name}
    described = EvalSamplesConfig(**values, out_dir=folder)
    inputs = [digest_path(run) for curve in curves for run in (*curve.runs, *((curve.greedy,) if curve.greedy else ()))]
    key = digest_value({"identity": described.identity(), "inputs": inputs})[:12]
    return eval_samples(described.model_copy(update={"out_dir": folder / f"curves-{key}"}))


def _sample_questions(
    config: SampledConfig, benchmark: Benchmark, questions: Path, checkpoint: Path, kind: Literal["samples", "greedy"]
) -> Path:
    """Sample all styles, or the greedy answers; existing samples are reused."""
    n, temperature = (config.samples, config.temperature) if kind == "samples" else (1, 0.0)
    shared = ("top_p", "max_new_tokens", "batch_size", "seed", "slicing", "device", "precision")
    values = {name: getattr(config, name) for name in shared}
    styles = tuple(StyleCount(style=style, n=n, prompt=_prompt(benchmark, style)) for style in config.styles)
    folder = questions.parent
    given = SampleConfig(
        checkpoint=checkpoint,
        input=questions,
        image_folder=folder,
        out_dir=folder,
        task="reasoning",
        styles=styles,
        temperature=temperature,
        max_dropped_share=0.0,
        **values,
    )
    key = digest_value({"checkpoint": digest_path(checkpoint), **given.identity()})[:12]
    return sample(given.model_copy(update={"out_dir": folder / f"{checkpoint.resolve().name}-{kind}-{key}"}))


def _prompt(benchmark: Benchmark, style: Style) -> str | None:
    """Return the form's prompt for the sampler, which knows the training prompts; the question has the options."""
    form = FORMS[benchmark.form]
    words = form.template if style == DIRECT else form.cot
    usual = "{question} " + (SHORT_ANSWER if style == DIRECT else STEP_BY_STEP)
    words = words.replace("\n{options}", "")
    return None if words == usual else words

"""`sicog eval CHECKPOINT --samples K`: sample the questions of a suite's tables, then measure what K samples give.

It runs two steps in turn, `sample` and `eval-samples`, which meet on disk as in a recipe.
OUT/BENCHMARK/questions, images/    the table as queries
OUT/BENCHMARK/MODEL-KEY/            samples and, beside them, greedy answers
OUT/BENCHMARK/curves/               what `eval-samples` writes
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.data.images import resolve_image
from sicog.evaluation.config import Style
from sicog.evaluation.forms import FORMS
from sicog.evaluation.kit_files import read_table
from sicog.evaluation.names import tails
from sicog.evaluation.samples import DIRECT, CurveConfig, EvalSamplesConfig, Select, eval_samples
from sicog.evaluation.suite import Benchmark, check_table, chosen, load_suite
from sicog.generation.sample import SampleConfig, StyleCount, sample
from sicog.model.precision import Precision
from sicog.provenance import digest_path, digest_value
from sicog.records import Query
from sicog.storage import MANIFEST, write_dataset
from sicog.tasks import SHORT_ANSWER, STEP_BY_STEP


class SampledConfig(Config):
    """checkpoints: the models, named by their folders, and by those above where two are called the same.
    suite: its tables are asked, not the kit's own data sets.

    samples: of every question, model and style; select: how one of them is chosen (see `EvalSamplesConfig`).
    """

    checkpoints: tuple[Path, ...] = Field(min_length=1)
    suite: str
    only: tuple[str, ...] = ()
    out_dir: Path
    samples: int = Field(default=8, ge=1)
    select: tuple[Select, ...] = ("greedy", "vote", "mbr", "oracle")
    styles: tuple[Style, ...] = Field(default=("direct", "cot"), min_length=1)
    temperature: float = Field(default=0.7, gt=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_new_tokens: int = Field(default=1200, ge=1)
    batch_size: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    slicing: bool = True
    device: str = "auto"
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _checkpoints_differ(self) -> SampledConfig:
        if repeated := next((path for path in self.checkpoints if self.checkpoints.count(path) > 1), None):
            raise ValueError(f"the checkpoint {repeated} is given twice")
        return self


def sampled_evaluation(config: SampledConfig) -> list[Path]:
    """The curves' folder of each of the suite's tables. Raises `ValueError` when it has none."""
    wanted = chosen(load_suite(config.suite), config.only)
    tables = [b for b in wanted if b.table]
    if not tables:
        raise ValueError(f"{config.suite}: samples are drawn for tables; these benchmarks are the kit's own data sets")
    for benchmark in tables:
        check_table(benchmark)
    return [_one(config, benchmark) for benchmark in tables]


def _one(config: SampledConfig, benchmark: Benchmark) -> Path:
    folder = config.out_dir / benchmark.data_name
    _write_questions(benchmark, folder)
    curves = []
    for checkpoint, name in zip(config.checkpoints, tails(config.checkpoints), strict=True):
        runs = {kind: _sampled(config, benchmark, folder, checkpoint, kind) for kind in ("samples", "greedy")}
        for style in config.styles:
            curves.append(CurveConfig(model=name, style=style, runs=(runs["samples"],), greedy=runs["greedy"]))
    assert benchmark.table
    values: dict[str, Any] = {"curves": tuple(curves), "answers": benchmark.table, "form": benchmark.form}
    values |= {"select": config.select, "seed": config.seed, "title": benchmark.name}
    described = EvalSamplesConfig(**values, out_dir=folder)
    inputs = [digest_path(run) for curve in curves for run in (*curve.runs, *((curve.greedy,) if curve.greedy else ()))]
    key = digest_value({"identity": described.identity(), "inputs": inputs})[:12]
    return eval_samples(described.model_copy(update={"out_dir": folder / f"curves-{key}"}))


def _sampled(
    config: SampledConfig, benchmark: Benchmark, folder: Path, checkpoint: Path, kind: Literal["samples", "greedy"]
) -> Path:
    """Draw the samples of all styles, or the greedy answers; what is there is not drawn again."""
    n, temperature = (config.samples, config.temperature) if kind == "samples" else (1, 0.0)
    shared = ("top_p", "max_new_tokens", "batch_size", "seed", "slicing", "device", "precision")
    values = {name: getattr(config, name) for name in shared}
    styles = tuple(StyleCount(style=style, n=n, prompt=_prompt(benchmark, style)) for style in config.styles)
    given = SampleConfig(
        checkpoint=checkpoint,
        input=folder / "questions",
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
    """The form's words for the sampler, which knows those of training; the options stand in the question."""
    form = FORMS[benchmark.form]
    words = form.template if style == DIRECT else form.cot
    usual = "{question} " + (SHORT_ANSWER if style == DIRECT else STEP_BY_STEP)
    words = words.replace("\n{options}", "")
    return None if words == usual else words


def _write_questions(benchmark: Benchmark, folder: Path) -> None:
    """The table's rows as queries, their pictures beside them."""
    if (folder / "questions" / MANIFEST).is_file():
        return
    assert benchmark.table
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows, queries = read_table(benchmark.table), []
    drawn = {str(row["index"]): row.get("image") for row in rows}
    for number, row in enumerate(rows):
        # A cell of the kit's own tables may name the row that has the picture.
        row["image"] = drawn.get(str(row.get("image")), row.get("image"))
        # One name whatever the picture's kind: what opens it goes by its content.
        (folder / "images" / f"{number}.png").write_bytes(_picture(row, benchmark.table))
        form = FORMS[benchmark.form]
        # What stands before the form's own sentence: the question with its hint and its options.
        question = form.prompt(row, DIRECT).removesuffix(form.template.rpartition("}")[2]).strip()
        queries.append(Query(id=row["index"], task="reasoning", images=(f"images/{number}.png",), question=question))
    write_dataset(folder / "questions", queries)


def _picture(row: Mapping[str, Any], table: Path) -> bytes:
    """The bytes of a row's one image, which is in the table or named by path. Raises `ValueError` naming the row."""
    if not (cell := str(row.get("image") or "").strip()):
        return resolve_image(table.parent, str(row["image_path"]).strip()).read_bytes()
    try:
        return base64.b64decode(cell, validate=True)
    except binascii.Error:
        raise ValueError(f"{table}, index {row['index']}: samples need one image, in base64 or by path") from None

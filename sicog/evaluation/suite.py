"""A suite: the benchmarks to run, as one YAML. Shipped ones go by name, others by path; tables lie beside their suite.

benchmarks:
  - {name: POPE, dataset: POPE, form: yes_no, family: pope}      # one of the kit's own data sets
  - {name: my charts, table: charts.tsv, form: chart}            # a TSV: index, question, answer, image (base64)
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from sicog.config import Config, load_yaml, validate
from sicog.data.images import ImageProblem, resolve_image
from sicog.evaluation.families import FAMILIES, OF_FORM
from sicog.evaluation.forms import FORMS
from sicog.evaluation.sampled.answer_scores import SCORERS
from sicog.stages.provenance import digest_file
from sicog.stages.storage import opened_table

SUITES = Path(__file__).parent / "suites"
OFFLINE = ("choice", "yes_no", *SCORERS)  # forms whose answers are scored as strings; others need a judge
_COLUMNS = ("index", "question", "answer")
_PICTURES = ("image", "image_path")


class Benchmark(Config):
    """One benchmark. dataset: the kit's name of its data; table: a TSV of the user's instead. form: how it is asked.

    family: how it is scored (see `families.py`); by default what the form says. paper: printed numbers to compare with.
    """

    name: str
    dataset: str = ""
    table: Path | None = None
    form: str
    family: str = ""
    paper: dict[str, float] = {}

    @model_validator(mode="after")
    def _is_known(self) -> Benchmark:
        if bool(self.dataset) == (self.table is not None):
            raise ValueError(f"benchmark {self.name!r} needs either dataset (a name of the kit's) or table (a TSV)")
        if self.form not in FORMS:
            raise ValueError(f"benchmark {self.name!r}: unknown form {self.form!r}; known: {', '.join(FORMS)}")
        if self.table is not None and (self.family or self.form not in OFFLINE):
            raise ValueError(f"benchmark {self.name!r}: a table is scored by its form, one of {', '.join(OFFLINE)}")
        if self.scored_as not in FAMILIES:
            raise ValueError(
                f"benchmark {self.name!r} (form {self.form!r}) needs a family, one of {', '.join(FAMILIES)}"
            )
        return self

    @property
    def scored_as(self) -> str:
        """The name of its family."""
        if self.table is not None and self.form in SCORERS:
            return "local"
        return self.family or OF_FORM.get(self.form, "")

    @property
    def data_name(self) -> str:
        """What the kit calls its data. Of a table it holds the digest: the kit goes by names when it reuses answers."""
        if self.table is None:
            return self.dataset
        return f"table_{re.sub(r'[^A-Za-z0-9]+', '-', self.name)}_{digest_file(self.table)[:8]}"


class Suite(Config):
    """Benchmarks, each with a name of its own."""

    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Suite:
        for names in ([b.name for b in self.benchmarks], [b.dataset for b in self.benchmarks if b.dataset]):
            if repeated := sorted({n for n in names if names.count(n) > 1}):
                raise ValueError(f"two benchmarks are called {repeated[0]!r}")
        return self


def load_suite(name: str) -> Suite:
    """A shipped suite by name, or one by path. Raises `ValueError` for an unknown name or a mistake in the file."""
    shipped = SUITES / f"{name}.yaml"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SUITES.glob("*.yaml")))
        raise ValueError(f"{name!r} is neither a suite's file nor a shipped suite ({known})")
    suite = validate(Suite, load_yaml(path), str(path))
    return Suite(benchmarks=tuple(_placed(b, path.parent) for b in suite.benchmarks))


def chosen(suite: Suite, only: tuple[str, ...]) -> tuple[Benchmark, ...]:
    """The benchmarks of these names, or all. Raises `ValueError` for an unknown name."""
    names = [b.name for b in suite.benchmarks]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"the suite has no benchmark {unknown[0]!r}; it has: {', '.join(names)}")
    return tuple(b for b in suite.benchmarks if not only or b.name in only)


def identity(benchmark: Benchmark) -> dict[str, Any]:
    """What its score depends on: a table counts by content, not by place."""
    values = benchmark.model_dump(mode="json", exclude={"paper", "table"})
    return {**values, "table": digest_file(benchmark.table) if benchmark.table else None}


def check_table(benchmark: Benchmark) -> int:
    """The number of rows of a benchmark's table. Raises `ValueError` naming the row that the kit would stumble over."""
    path = benchmark.table
    assert path is not None
    if not path.is_file():
        raise ValueError(f"benchmark {benchmark.name!r}: its table {path} does not exist")
    csv.field_size_limit(sys.maxsize)  # pictures are cells
    with opened_table(path) as file:
        rows = csv.DictReader(file, delimiter="\t")
        columns = rows.fieldnames or []
        wanted = (*_COLUMNS, *(("A", "B") if benchmark.form == "choice" else ()))
        missing = [c for c in wanted if c not in columns]
        if missing or not set(_PICTURES) & set(columns):
            raise ValueError(
                f"{path}: a table of form {benchmark.form!r} has the columns {', '.join(wanted)} and image (base64) or "
                f"image_path; missing: {', '.join(missing) or 'the picture'}"
            )
        seen: set[str] = set()
        for number, row in enumerate(rows, 2):
            if empty := [c for c in wanted if c not in "AB" and not (row[c] or "").strip()]:
                raise ValueError(f"{path}:{number}: {empty[0]} is empty")
            if row["index"] in seen:
                raise ValueError(f"{path}:{number}: index {row['index']!r} comes twice")
            seen.add(row["index"])
            _check_answer(row, benchmark.form, f"{path}:{number}")
            _check_picture(row, path.parent, f"{path}:{number}")
    if not seen:
        raise ValueError(f"{path} has no rows")
    return len(seen)


def _check_answer(row: dict[str, Any], form: str, where: str) -> None:
    answer = row["answer"].strip()
    if form == "yes_no" and answer.lower() not in ("yes", "no"):
        raise ValueError(f"{where}: the answer of form 'yes_no' is yes or no, got {answer!r}")
    if form == "choice" and not (len(answer) == 1 and answer.isupper() and (row.get(answer) or "").strip()):
        raise ValueError(f"{where}: the answer of form 'choice' is the letter of an option, got {answer!r}")


def _check_picture(row: dict[str, Any], folder: Path, where: str) -> None:
    """Pictures named by path lie under the table's folder."""
    if (row.get("image") or "").strip():
        return
    try:
        resolve_image(folder, (row.get("image_path") or "").strip())
    except ImageProblem as error:
        raise ValueError(f"{where}: {error}") from None


def _placed(benchmark: Benchmark, folder: Path) -> Benchmark:
    if benchmark.table is None:
        return benchmark
    return benchmark.model_copy(update={"table": (folder / benchmark.table).absolute()})

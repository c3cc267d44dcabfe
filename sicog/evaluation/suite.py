"""A suite: the benchmarks to run, in one YAML. Shipped suites have names, others paths; tables are next to their suite.

benchmarks:
  - {name: POPE, dataset: POPE, form: yes_no, family: pope}      # one of the kit's own data sets
  - {name: my charts, table: charts.tsv, form: chart}            # a TSV: index, question, answer, image (base64)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from sicog.config import Config, load_yaml, validate
from sicog.data.images import ImageProblem, resolve_image
from sicog.evaluation.families import FAMILIES, OF_FORM
from sicog.evaluation.forms import FORMS
from sicog.evaluation.sampled.answer_scores import SCORERS
from sicog.stages.provenance import digest_file
from sicog.stages.storage import open_table

SUITES = Path(__file__).parent / "suites"
OFFLINE = ("choice", "yes_no", *SCORERS)  # forms that are scored as strings; others need a judge
_COLUMNS = ("index", "question", "answer")
_PICTURES = ("image", "image_path")


class Benchmark(Config):
    """One benchmark. dataset: the kit's name of its data, or table: a TSV of the user. form: form of the questions.

    family: scoring (see `families.py`); by default it follows from the form. paper: published numbers to compare with.
    """

    name: str
    dataset: str = ""
    table: Path | None = None
    form: str
    family: str = ""
    paper: dict[str, float] = {}

    @model_validator(mode="after")
    def _check_benchmark(self) -> Benchmark:
        if bool(self.dataset) == (self.table is not None):
            raise ValueError(f"benchmark {self.name!r}: set either dataset (a name of the kit) or table (a TSV)")
        if self.form not in FORMS:
            raise ValueError(f"benchmark {self.name!r}: unknown form {self.form!r}. Use one of: {', '.join(FORMS)}")
        if self.table is not None and (self.family or self.form not in OFFLINE):
            raise ValueError(
                f"benchmark {self.name!r}: a table of form {self.form!r} cannot be scored. Use one of: "
                f"{', '.join(OFFLINE)}"
            )
        if self.scored_as not in FAMILIES:
            raise ValueError(
                f"benchmark {self.name!r} (form {self.form!r}): family is missing. Use one of: {', '.join(FAMILIES)}"
            )
        return self

    @property
    def scored_as(self) -> str:
        """Return the name of its family."""
        if self.table is not None and self.form in SCORERS:
            return "local"
        return self.family or OF_FORM.get(self.form, "")

    @property
    def data_name(self) -> str:
        """Return the kit's name of its data. For a table it has the digest, because the kit reuses answers by name."""
        if self.table is None:
            return self.dataset
        return f"table_{re.sub(r'[^A-Za-z0-9]+', '-', self.name)}_{digest_file(self.table)[:8]}"


class Suite(Config):
    """Benchmarks with unique names."""

    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_names(self) -> Suite:
        for names in ([b.name for b in self.benchmarks], [b.dataset for b in self.benchmarks if b.dataset]):
            if repeated := sorted({n for n in names if names.count(n) > 1}):
                raise ValueError(f"two benchmarks have the name {repeated[0]!r}. Rename one")
        return self


def load_suite(name: str) -> Suite:
    """Load a shipped suite by name, or a suite by path. Raises `ValueError` for an unknown name or a bad file."""
    shipped = SUITES / f"{name}.yaml"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SUITES.glob("*.yaml")))
        raise ValueError(f"{name!r} is neither a file nor a shipped suite. Use a path or one of: {known}")
    suite = validate(Suite, load_yaml(path), str(path))
    return Suite(benchmarks=tuple(_with_table_path(b, path.parent) for b in suite.benchmarks))


def chosen_benchmarks(suite: Suite, only: tuple[str, ...]) -> tuple[Benchmark, ...]:
    """Return the benchmarks with these names, or all. Raises `ValueError` for an unknown name."""
    names = [b.name for b in suite.benchmarks]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"the suite has no benchmark {unknown[0]!r}. Use one of: {', '.join(names)}")
    return tuple(b for b in suite.benchmarks if not only or b.name in only)


def benchmark_identity(benchmark: Benchmark) -> dict[str, Any]:
    """Return what its score depends on; a table counts by content, not by path."""
    values = benchmark.model_dump(mode="json", exclude={"paper", "table"})
    return {**values, "table": digest_file(benchmark.table) if benchmark.table else None}


def check_table(benchmark: Benchmark) -> int:
    """Return the number of rows of a benchmark's table. Raises `ValueError` for a row that would break the kit."""
    path = benchmark.table
    assert path is not None
    if not path.is_file():
        raise ValueError(f"benchmark {benchmark.name!r}: its table {path} does not exist. Correct the path")
    with open_table(path) as rows:
        columns = rows.fieldnames or []
        wanted = (*_COLUMNS, *(("A", "B") if benchmark.form == "choice" else ()))
        missing = [c for c in wanted if c not in columns]
        if missing or not set(_PICTURES) & set(columns):
            raise ValueError(
                f"{path}: missing columns: {', '.join(missing) or 'image'}. A table of form {benchmark.form!r} needs "
                f"{', '.join(wanted)} and image (base64) or image_path"
            )
        seen: set[str] = set()
        for number, row in enumerate(rows, 2):
            if empty := [c for c in wanted if c not in "AB" and not (row[c] or "").strip()]:
                raise ValueError(f"{path}:{number}: {empty[0]} is empty. Fill it in")
            if row["index"] in seen:
                raise ValueError(f"{path}:{number}: index {row['index']!r} occurs twice. Make it unique")
            seen.add(row["index"])
            _check_answer(row, benchmark.form, f"{path}:{number}")
            _check_picture(row, path.parent, f"{path}:{number}")
    if not seen:
        raise ValueError(f"{path} has no rows. Give another table")
    return len(seen)


def _check_answer(row: dict[str, Any], form: str, where: str) -> None:
    answer = row["answer"].strip()
    if form == "yes_no" and answer.lower() not in ("yes", "no"):
        raise ValueError(f"{where}: the answer must be yes or no (form 'yes_no'), got {answer!r}")
    if form == "choice" and not (len(answer) == 1 and answer.isupper() and (row.get(answer) or "").strip()):
        raise ValueError(f"{where}: the answer must be the letter of an option (form 'choice'), got {answer!r}")


def _check_picture(row: dict[str, Any], folder: Path, where: str) -> None:
    """Check that images given by path are inside the table's folder."""
    if (row.get("image") or "").strip():
        return
    try:
        resolve_image(folder, (row.get("image_path") or "").strip())
    except ImageProblem as error:
        raise ValueError(f"{where}: {error}") from None


def _with_table_path(benchmark: Benchmark, folder: Path) -> Benchmark:
    if benchmark.table is None:
        return benchmark
    return benchmark.model_copy(update={"table": (folder / benchmark.table).absolute()})

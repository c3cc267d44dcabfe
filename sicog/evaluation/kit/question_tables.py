"""The tables that samples are drawn for, the kit's own and the user's: where they lie, and their rows as queries.

The rules of the kit (`ImageBaseDataset`): `image` holds a picture in base64, several as a Python list, or the index of
the row that has them; a table without that column names files in `image_path`.
"""

from __future__ import annotations

import ast
import base64
import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sicog.config.paths import at_home
from sicog.data.images import ImageProblem, resolve_image
from sicog.evaluation.forms import FORMS
from sicog.evaluation.suite import Benchmark
from sicog.model.image_files import image_size
from sicog.records import Query
from sicog.stages.provenance import digest_bytes
from sicog.stages.storage import MANIFEST, opened_table, write_bytes, write_dataset

DATA_ROOT = "LMUData"  # the kit's name of the variable
ANSWERS = "answers.tsv"
_LARGE = 2**30  # bytes, above which the kit reads NAME_local.tsv, whose pictures are files
_LONGEST_INDEX = 64  # characters: what is longer in `image` is a picture
_CIRCULAR = ("mmbench", "ccbench", "circular", "mmcr")  # in the names of data that ask a question in several orders
_TURN = 10**6  # between the indices of one question


def data_root(given: Path | None) -> Path:
    """Where the kit keeps its data: as given, else $LMUData, else ~/LMUData."""
    return at_home(Path(given or os.environ.get(DATA_ROOT) or "~/LMUData")).absolute()


def table_file(benchmark: Benchmark, root: Path) -> Path:
    """The user's table, or the one that the kit keeps of its data set. Raises `ValueError` when that is not there."""
    if benchmark.table:
        return benchmark.table
    path = root / f"{benchmark.dataset}.tsv"
    if not path.is_file():
        raise ValueError(
            f"benchmark {benchmark.name!r}: {path} does not exist; run `sicog eval` without --samples once, which "
            f"fetches it (only=[{benchmark.name}]), or say with data_root=... where the kit keeps its data"
        )
    local = path.with_name(f"{benchmark.dataset}_local.tsv")
    return local if path.stat().st_size > _LARGE and local.is_file() else path


def unpack(benchmark: Benchmark, table: Path, root: Path, folder: Path) -> tuple[Path, int]:
    """Write the rows as queries, their pictures by content, and ANSWERS beside them: every column but the pictures, and
    `group`, what rows share. Once: what is there stays.

    Returns the folder of queries and how many rows are left out, having no picture (0 when all was there).
    Raises `ValueError` naming table and row.
    """
    questions = folder / f"questions-{benchmark.form}"
    if (questions / MANIFEST).is_file():
        return questions, 0
    (folder / "images").mkdir(parents=True, exist_ok=True)
    kept, shown, n_bare = _read(benchmark, table, root, folder)
    if not kept:
        raise ValueError(f"{table} has no rows")
    form, queries = FORMS[benchmark.form], []
    for row in kept:
        try:
            asked = form.prompt(row, "direct")
        except ValueError as error:
            raise ValueError(f"{table}: {error}") from None
        # What stands before the form's own sentence: the question with its hint and its options.
        question = asked.removesuffix(form.template.rpartition("}")[2]).strip()
        queries.append(Query(id=row["index"], task="reasoning", images=shown[row["index"]], question=question))
    if "group" not in kept[0]:
        names = _groups([[*shown[row["index"]], *_question(benchmark, table, row["index"])] for row in kept])
        kept = [{**row, "group": name} for row, name in zip(kept, names, strict=True)]
    write_bytes(folder / ANSWERS, _tsv(kept))
    write_dataset(questions, queries)
    return questions, n_bare


def _read(
    benchmark: Benchmark, table: Path, root: Path, folder: Path
) -> tuple[list[dict[str, str]], dict[str, tuple[str, ...]], int]:
    """The rows without their pictures, the names of those by index, and the number of rows without any."""
    kept: list[dict[str, str]] = []
    shown: dict[str, tuple[str, ...]] = {}
    lent: dict[str, str] = {}  # by index, the index of the row that has the pictures
    stored: set[str] = set()
    n_bare = 0
    for row in _rows(table):
        index, cell, paths = row["index"], row.pop("image", None), row.pop("image_path", "")
        where = f"{table}, index {index}"
        if index in shown or index in lent:
            raise ValueError(f"{where}: this index comes twice")
        if cell == "" and not benchmark.table:
            n_bare += 1
            continue
        try:
            if cell and len(cell) <= _LONGEST_INDEX:
                lent[index] = cell
            elif cell:
                pictures = [_decoded(one) for one in _listed(cell)]
                shown[index] = tuple(_store(one, folder, stored) for one in pictures)
            elif not paths:
                raise ValueError("it has no picture")
            else:
                files = [_file(one, benchmark, table, root) for one in _listed(paths)]
                shown[index] = tuple(_store(file.read_bytes(), folder, stored) for file in files)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        kept.append(row)
    for index, other in lent.items():
        if other not in shown:
            raise ValueError(f"{table}, index {index}: {other!r} is neither a picture nor the index of a row with one")
        shown[index] = shown[other]
    return kept, shown, n_bare


def _rows(table: Path) -> Iterator[dict[str, str]]:
    """Rows with all that a question needs. Tables may be larger than memory, for their pictures."""
    csv.field_size_limit(sys.maxsize)  # pictures are cells
    with opened_table(table) as file:
        rows = csv.DictReader(file, delimiter="\t")
        columns = rows.fieldnames or []
        missing = [name for name in ("index", "question", "answer") if name not in columns]
        if missing or not {"image", "image_path"} & set(columns):
            raise ValueError(
                f"{table} has no column {missing[0] if missing else 'image or image_path'!r}: samples need index, "
                f"question, answer, and image or image_path"
            )
        for number, row in enumerate(rows, 2):
            plain = {name: (row[name] or "").strip() for name in columns}
            if empty := [name for name in ("index", "question", "answer") if not plain[name]]:
                raise ValueError(f"{table}:{number}: {empty[0]} is empty")
            yield plain


def _listed(cell: str) -> list[str]:
    """The texts of a list as Python writes it, or the cell itself."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    try:
        listed = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        listed = []
    if not listed or not all(isinstance(one, str) and one for one in listed):
        raise ValueError("its pictures are not a list of texts, each in base64 or a path")
    return list(listed)


def _decoded(cell: str) -> bytes:
    try:
        return base64.b64decode(cell)
    except ValueError as error:
        raise ValueError(f"its picture is not in base64 ({error})") from None


def _file(name: str, benchmark: Benchmark, table: Path, root: Path) -> Path:
    """The file of a picture: under the user's table, or where the kit unpacks pictures."""
    if benchmark.table:
        return resolve_image(table.parent, name)
    if not Path(name).is_absolute():
        return resolve_image(root / "images" / benchmark.dataset, name)
    if not Path(name).is_relative_to(root):
        raise ImageProblem(
            "image_refused", f"{name} does not lie under {root}; remove {table.name}, and the kit writes it again"
        )
    return resolve_image(root, str(Path(name).relative_to(root)))


def _store(data: bytes, folder: Path, stored: set[str]) -> str:
    """Write a picture under the name of its content; returns the name. Raises `ValueError` when it is no picture."""
    name = f"images/{digest_bytes(data)[:16]}.png"  # whatever its kind: what opens it goes by its content
    if name not in stored:
        (folder / name).write_bytes(data)
        try:
            image_size(folder / name)
        except ValueError as error:
            (folder / name).unlink()
            raise ValueError(f"its picture cannot be opened ({error})") from None
        stored.add(name)
    return name


def _question(benchmark: Benchmark, table: Path, index: str) -> list[str]:
    """What the orders of one question share, where the kit asks it in several."""
    if not any(word in benchmark.dataset.lower() for word in _CIRCULAR):
        return []
    if not index.isdecimal():
        raise ValueError(f"{table}, index {index}: an index of {benchmark.dataset} is a whole number")
    return [f"question {int(index) % _TURN}"]


def _groups(shared: Sequence[Sequence[str]]) -> list[str]:
    """A name for each row, from what it shares: the same for rows that are joined by anything, if through others."""
    above: dict[str, str] = {}

    def top(one: str) -> str:
        while above.setdefault(one, one) != one:
            above[one] = one = above[above[one]]
        return one

    for row in shared:
        for one in row[1:]:
            above[top(one)] = top(row[0])
    return [top(row[0]) for row in shared]


def _tsv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()

"""Read tables of the kit and of users as queries, for sampling.

The kit's rules (`ImageBaseDataset`): `image` has one image in base64, several as a Python list, or the index of the row
with the image. A table without that column has file names in `image_path`.
"""

from __future__ import annotations

import ast
import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sicog.config.paths import expand_home
from sicog.data.images import ImageProblem, resolve_image
from sicog.evaluation.forms import FORMS
from sicog.evaluation.suite import Benchmark
from sicog.model.image_files import image_size
from sicog.records import Query
from sicog.stages.provenance import digest_bytes
from sicog.stages.storage import is_finished, open_table, table_bytes, write_bytes, write_dataset

DATA_ROOT = "LMUData"  # the kit's name of the variable
ANSWERS = "answers.tsv"
_LARGE = 2**30  # bytes; for a larger table the kit reads NAME_local.tsv, with images as files
_LONGEST_INDEX = 64  # characters: a longer cell in `image` is an image
_CIRCULAR = ("mmbench", "ccbench", "circular", "mmcr")  # in names of data sets that ask each question in several orders
_TURN = 10**6  # distance between the indices of one question


def data_root(given: Path | None) -> Path:
    """Return the kit's data folder: as given, else $LMUData, else ~/LMUData."""
    return expand_home(Path(given or os.environ.get(DATA_ROOT) or "~/LMUData")).absolute()


def table_file(benchmark: Benchmark, root: Path) -> Path:
    """Return the user's table, or the kit's table of the data set. Raises `ValueError` when it is missing."""
    if benchmark.table:
        return benchmark.table
    path = root / f"{benchmark.dataset}.tsv"
    if not path.is_file():
        raise ValueError(
            f"benchmark {benchmark.name!r}: {path} is missing. Run `sicog eval` once without --samples to download it "
            f"(only=[{benchmark.name}]), or set data_root=... to the kit's data folder"
        )
    local = path.with_name(f"{benchmark.dataset}_local.tsv")
    return local if path.stat().st_size > _LARGE and local.is_file() else path


def unpack_table(benchmark: Benchmark, table: Path, root: Path, folder: Path) -> tuple[Path, int]:
    """Write the rows as queries, their images, and ANSWERS: all columns except images, plus `group`. Runs only once.

    Images are named by content; `group` says what rows share. Returns the folder of queries and the number of skipped
    rows without an image (0 when the folder existed). Raises `ValueError` with table and row.
    """
    questions = folder / f"questions-{benchmark.form}"
    if is_finished(questions):
        return questions, 0
    (folder / "images").mkdir(parents=True, exist_ok=True)
    kept, shown, n_bare = _read(benchmark, table, root, folder)
    if not kept:
        raise ValueError(f"{table} has no rows. Give another table")
    form, queries = FORMS[benchmark.form], []
    for row in kept:
        try:
            asked = form.prompt(row, "direct")
        except ValueError as error:
            raise ValueError(f"{table}: {error}") from None
        # The text before the form's own sentence: question, hint and options.
        question = asked.removesuffix(form.template.rpartition("}")[2]).strip()
        queries.append(Query(id=row["index"], task="reasoning", images=shown[row["index"]], question=question))
    if "group" not in kept[0]:
        names = _groups([[*shown[row["index"]], *_question_group(benchmark, table, row["index"])] for row in kept])
        kept = [{**row, "group": name} for row, name in zip(kept, names, strict=True)]
    write_bytes(folder / ANSWERS, table_bytes(kept))
    write_dataset(questions, queries)
    return questions, n_bare


def _read(
    benchmark: Benchmark, table: Path, root: Path, folder: Path
) -> tuple[list[dict[str, str]], dict[str, tuple[str, ...]], int]:
    """Return the rows without images, image names by index, and the number of rows without an image."""
    kept: list[dict[str, str]] = []
    shown: dict[str, tuple[str, ...]] = {}
    lent: dict[str, str] = {}  # by index, the index of the row with the images
    stored: set[str] = set()
    n_bare = 0
    for row in _rows(table):
        index, cell, paths = row["index"], row.pop("image", None), row.pop("image_path", "")
        where = f"{table}, index {index}"
        if index in shown or index in lent:
            raise ValueError(f"{where}: the index occurs twice. Make it unique")
        if cell == "" and not benchmark.table:
            n_bare += 1
            continue
        try:
            if cell and len(cell) <= _LONGEST_INDEX:
                lent[index] = cell
            elif cell:
                pictures = [_decode_image(one) for one in _list_texts(cell)]
                shown[index] = tuple(_store_image(one, folder, stored) for one in pictures)
            elif not paths:
                raise ValueError("it has no picture")
            else:
                files = [_image_file(one, benchmark, table, root) for one in _list_texts(paths)]
                shown[index] = tuple(_store_image(file.read_bytes(), folder, stored) for file in files)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        kept.append(row)
    for index, other in lent.items():
        if other not in shown:
            raise ValueError(
                f"{table}, index {index}: {other!r} is neither an image nor the index of a row with an image. "
                "Correct it"
            )
        shown[index] = shown[other]
    return kept, shown, n_bare


def _rows(table: Path) -> Iterator[dict[str, str]]:
    """Yield the rows and check their columns. Tables may be larger than memory because of their images."""
    with open_table(table) as rows:
        columns = rows.fieldnames or []
        missing = [name for name in ("index", "question", "answer") if name not in columns]
        if missing or not {"image", "image_path"} & set(columns):
            raise ValueError(
                f"{table}: the column {missing[0] if missing else 'image or image_path'!r} is missing. Sampling needs "
                f"index, question, answer, and image or image_path"
            )
        for number, row in enumerate(rows, 2):
            plain = {name: (row[name] or "").strip() for name in columns}
            if empty := [name for name in ("index", "question", "answer") if not plain[name]]:
                raise ValueError(f"{table}:{number}: {empty[0]} is empty. Fill it in")
            yield plain


def _list_texts(cell: str) -> list[str]:
    """Return the texts of a list in Python's notation, or the cell itself."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    try:
        listed = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        listed = []
    if not listed or not all(isinstance(one, str) and one for one in listed):
        raise ValueError("its pictures are not a list of texts, each in base64 or a path")
    return list(listed)


def _decode_image(cell: str) -> bytes:
    try:
        return base64.b64decode(cell)
    except ValueError as error:
        raise ValueError(f"its picture is not in base64 ({error})") from None


def _image_file(name: str, benchmark: Benchmark, table: Path, root: Path) -> Path:
    """Return the file of an image: below the user's table, or in the kit's image folder."""
    if benchmark.table:
        return resolve_image(table.parent, name)
    if not Path(name).is_absolute():
        return resolve_image(root / "images" / benchmark.dataset, name)
    if not Path(name).is_relative_to(root):
        raise ImageProblem(
            "image_refused", f"{name} is not inside {root}. Remove {table.name}; the kit writes it again"
        )
    return resolve_image(root, str(Path(name).relative_to(root)))


def _store_image(data: bytes, folder: Path, stored: set[str]) -> str:
    """Write an image, named by its content; returns the name. Raises `ValueError` when it is not an image."""
    name = f"images/{digest_bytes(data)[:16]}.png"  # any suffix works: readers look at the content
    if name not in stored:
        (folder / name).write_bytes(data)
        try:
            image_size(folder / name)
        except ValueError as error:
            (folder / name).unlink()
            raise ValueError(f"its picture cannot be opened ({error})") from None
        stored.add(name)
    return name


def _question_group(benchmark: Benchmark, table: Path, index: str) -> list[str]:
    """Return the name that all orders of one question share, when the kit asks it in several orders."""
    if not any(word in benchmark.dataset.lower() for word in _CIRCULAR):
        return []
    if not index.isdecimal():
        raise ValueError(f"{table}, index {index}: an index of {benchmark.dataset} is a whole number")
    return [f"question {int(index) % _TURN}"]


def _groups(shared: Sequence[Sequence[str]]) -> list[str]:
    """Return a group name for each row: the same for rows that are connected by anything they share."""
    above: dict[str, str] = {}

    def top(one: str) -> str:
        while above.setdefault(one, one) != one:
            above[one] = one = above[above[one]]
        return one

    for row in shared:
        for one in row[1:]:
            above[top(one)] = top(row[0])
    return [top(row[0]) for row in shared]

"""The number of rows that each step of a run reads and writes: counted in files that exist, else from the configs.

The rows that a step will drop are unknown, so most numbers are `at most`. The share that a threshold keeps is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sicog.data.mixture import Source, chosen_rows
from sicog.data.rows.file_kinds import find_files
from sicog.data.rows.sources import count_file
from sicog.formats import FileSource, parse_example
from sicog.runs.recipe import Recipe, Step
from sicog.runs.states import is_done
from sicog.stages.storage import MANIFEST, count_rows, read_json

How = Literal["counted", "from the config", "at most", "assumed"]
_SIGNS: Mapping[How, str] = {"counted": "", "from the config": "", "at most": "<= ", "assumed": "~ "}
_ORDER: tuple[How, ...] = ("counted", "from the config", "at most", "assumed")


@dataclass(frozen=True)
class Rows:
    """A number of rows, and where the number comes from."""

    n: int
    how: How

    def __str__(self) -> str:
        return f"{_SIGNS[self.how]}{self.n:,}"

    def at_most(self) -> Rows:
        """The same number as an upper bound, because some may be dropped."""
        return replace(self, how=_less_certain(self.how, "at most"))

    def times(self, factor: float, how: How = "counted") -> Rows:
        """A share or a multiple of them, rounded up."""
        return Rows(math.ceil(self.n * factor - 1e-9), _less_certain(self.how, how))


@dataclass(frozen=True)
class InAndOut:
    """Rows that a step reads (`given`) and writes (`gives`); None where they are unknown."""

    given: Rows | None
    gives: Rows | None


class Counts:
    """Numbers of rows, by the path that holds them or will hold them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.found: dict[Path, Rows | None] = {}

    def of(self, step: Step) -> InAndOut:
        """Rows in and out of a step. The rows it will write are remembered for later steps."""
        known = _KNOWN.get(step.verb.name)
        if is_done(step) and (step.folder / MANIFEST).is_file() and "rows_in" in read_json(step.folder / MANIFEST):
            manifest = read_json(step.folder / MANIFEST)
            return InAndOut(Rows(manifest["rows_in"], "counted"), Rows(manifest["rows_out"], "counted"))
        return known(self, step) if known and not is_done(step) else InAndOut(None, None)

    def at(self, path: Path) -> Rows | None:
        """Rows of a path: of existing data, of a step's future output, or as expected of an input."""
        if path not in self.found:
            self.found[path] = self._counted(path)
        return self.found[path]

    def _counted(self, path: Path) -> Rows | None:
        if not path.exists():
            expected = [given.rows for given in self.recipe.inputs.values() if Path(given.path) == path]
            return Rows(expected[0], "at most") if expected and expected[0] is not None else None
        if (path / MANIFEST).is_file() and "rows_out" in read_json(path / MANIFEST):
            return Rows(count_rows(path), "counted")
        try:
            files = find_files(path)
        except ValueError:
            return None
        if files.kind == "dataset":
            return None
        if files.kind == "json":
            return Rows(sum(len(FileSource(file, parse_example, unique_ids=False)) for file in files.files), "counted")
        try:
            return Rows(sum(map(count_file, files.files)), "counted")
        except ValueError:  # a damaged file: the step that reads it reports it
            return None

    def will_hold(self, path: Path, rows: Rows | None) -> None:
        """Remember the number of rows that a step will write."""
        self.found[path] = rows

    def taken(self, sources: Sequence[Source]) -> Rows | None:
        """The rows that a mixture takes from its sources."""
        all_rows = [self._taken(source) for source in sources]
        known = [rows for rows in all_rows if rows is not None]
        return _sum(known) if known and len(known) == len(all_rows) else None

    def _taken(self, source: Source) -> Rows | None:
        rows = self.at(source.path)
        if rows is None:  # `first:N` has the number itself
            which, _, n = source.take.partition(":")
            return Rows(int(int(n) * source.weight), "from the config") if n.isdigit() else None
        try:
            return replace(rows, n=len(chosen_rows(source, rows.n, "0")[0]))
        except ValueError:
            return rows


def _less_certain(one: How, other: How) -> How:
    return max(one, other, key=_ORDER.index)


def _sum(rows: Sequence[Rows]) -> Rows:
    how: How = "counted"
    for r in rows:
        how = _less_certain(how, r.how)
    return Rows(sum(r.n for r in rows), how)


def _through(counts: Counts, step: Step, given: Rows | None, gives: Rows | None, *subs: str) -> InAndOut:
    for sub in subs or ("",):
        counts.will_hold(step.folder / sub if sub else step.folder, gives)
    return InAndOut(given, gives)


def _annotate(counts: Counts, step: Step) -> InAndOut:
    config: Any = step.config
    rows = counts.at(config.input)
    return _through(counts, step, rows, rows.at_most() if rows else None, "chain", "plain")


def _sample(counts: Counts, step: Step) -> InAndOut:
    config: Any = step.config
    rows = counts.at(config.input)
    return _through(counts, step, rows, rows.at_most() if rows else None)


def _group(counts: Counts, step: Step) -> InAndOut:
    """`group`, `score` and `claims` read several folders with the same queries."""
    config: Any = step.config
    folders = config.inputs if step.verb.name == "group" else config.input
    found = [rows for rows in map(counts.at, folders) if rows]
    rows = max(found, key=lambda r: r.n) if found else None
    return _through(counts, step, rows, rows.at_most() if rows else None)


def _select(counts: Counts, step: Step) -> InAndOut:
    config: Any = step.config
    rows = counts.at(config.input)
    if like := getattr(config, "keep_rows_of", None):
        return _through(counts, step, rows, counts.at(like))
    kept = rows.times(counts.recipe.assume.keep_share, "assumed") if rows else None
    return _through(counts, step, rows, kept)


def _curate(counts: Counts, step: Step) -> InAndOut:
    config: Any = step.config
    found = [rows for rows in map(counts.at, config.input) if rows]
    rows = max(found, key=lambda r: r.n) if found else None
    kept = rows.times(counts.recipe.assume.keep_share, "assumed") if rows else None
    return _through(counts, step, rows, kept, "selected")


def _build(counts: Counts, step: Step) -> InAndOut:
    config: Any = step.config
    total = getattr(config, "total", None)
    parts = []
    for source in config.sources:
        rows = counts.at(source.path)
        if source.count is not None:
            rows = Rows(source.count, "from the config")
        elif rows and source.weight is not None:
            rows = rows.times(source.weight)
        parts.append(rows)
    known = [rows for rows in parts if rows is not None]
    given = _sum(known) if len(known) == len(parts) else None
    gives = Rows(total, "from the config") if isinstance(total, int) else given
    return _through(counts, step, given, gives)


def _mix(counts: Counts, step: Step) -> InAndOut:
    config: Any = step.config
    rows = counts.taken(config.sources)
    return _through(counts, step, rows, rows)


def _train(counts: Counts, step: Step) -> InAndOut:
    config: Any = step.config
    try:
        sources = config.data.chosen_sources()
    except ValueError:  # the mixture file does not exist
        return InAndOut(None, None)
    rows = counts.taken(sources)
    return InAndOut(rows, rows)


def _mini_data(counts: Counts, step: Step) -> InAndOut:
    config: Any = step.config
    n = {"align.json": config.align, "warmup_captions.json": config.warmup_captions}
    n |= {"warmup_reasoning.jsonl": config.warmup_reasoning}
    for split in ("unlabelled", "dev", "test"):
        images = getattr(config, split)
        n |= {f"{split}_images.json": images}
        n |= {f"{split}_questions.json": images * getattr(config, f"{split}_questions")}
    for name, rows in n.items():
        counts.will_hold(step.folder / name, Rows(rows, "from the config"))
    return InAndOut(None, None)


_KNOWN: Mapping[str, Callable[[Counts, Step], InAndOut]] = {
    "mini-data": _mini_data,
    "annotate": _annotate,
    "mini-annotate": _annotate,
    "sample": _sample,
    "group": _group,
    "score": _group,
    "claims": _group,
    "select": _select,
    "curate": _curate,
    "settle": _sample,
    "build": _build,
    "mix": _mix,
    "train": _train,
}

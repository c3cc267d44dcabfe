"""The number of rows that each step of a run reads and writes: counted in files that exist, else from the configs.

The rows that a step will drop are unknown, so most numbers are `at most`. The share that a threshold keeps is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from sicog.data.amounts import MixedSource, WhenShort, amount_to_take, amounts
from sicog.data.rows.file_kinds import find_files
from sicog.data.rows.sources import count_file
from sicog.formats import FileSource, parse_example
from sicog.runs.recipe import Recipe, Step
from sicog.runs.states import is_done
from sicog.runs.verbs import load
from sicog.stages.storage import MANIFEST, count_rows, is_finished, read_json

if TYPE_CHECKING:  # of each step's own config: a plan imports only those that its recipe has
    from sicog.annotation.revise import ReviseConfig
    from sicog.curation.build.build import BuildConfig
    from sicog.curation.claims.settle import SettleConfig
    from sicog.curation.curate import CurateConfig
    from sicog.curation.score.score import SetsConfig
    from sicog.curation.select.select import SelectConfig
    from sicog.data.mix import MixConfig
    from sicog.generation.config import SampleConfig
    from sicog.generation.group import GroupConfig
    from sicog.training.config import TrainConfig

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
        if is_done(step):
            manifest = read_json(step.folder / MANIFEST) if is_finished(step.folder) else {}
            if "rows_in" in manifest:
                return InAndOut(Rows(manifest["rows_in"], "counted"), Rows(manifest["rows_out"], "counted"))
        elif step.verb.counter:
            counter: Counter = load(step.verb.counter)
            return counter(self, step)
        return InAndOut(None, None)

    def at(self, path: Path) -> Rows | None:
        """Rows of a path: of existing data, of a step's future output, or as expected of an input."""
        if path not in self.found:
            self.found[path] = self._count(path)
        return self.found[path]

    def _count(self, path: Path) -> Rows | None:
        if not path.exists():
            expected = [given.rows for given in self.recipe.inputs.values() if Path(given.path) == path]
            return Rows(expected[0], "at most") if expected and expected[0] is not None else None
        if is_finished(path) and "rows_out" in read_json(path / MANIFEST):
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

    def taken_rows(
        self, sources: Sequence[MixedSource], total: int | None = None, when_short: WhenShort | None = None
    ) -> Rows | None:
        """The rows that a mixture or a built set takes from its sources."""
        found = [self.at(source.path) for source in sources]
        known = [rows for rows in found if rows is not None]
        if len(known) == len(found):
            # With too few rows the step itself says what it lacks; here each source counts by itself.
            with suppress(ValueError):
                taken = [amount_to_take(source, rows.n)[1] for source, rows in zip(sources, known, strict=True)]
                return replace(_sum(known), n=sum(amounts(sources, taken, total, when_short or "error")))
        if total is not None:
            return Rows(total, "from the config")
        parts = [_expected_rows(source, rows) for source, rows in zip(sources, found, strict=True)]
        return _sum(sure) if len(sure := [rows for rows in parts if rows]) == len(parts) else None


def _expected_rows(source: MixedSource, rows: Rows | None) -> Rows | None:
    """The rows that a source gives by itself. `count` and `first:N` have the number, however many there are."""
    if source.count is not None:
        return Rows(source.count, "from the config")
    if rows is None:
        n = (source.take or "").partition(":")[2]
        return Rows(source.weighted_count(int(n)), "from the config") if n.isdigit() else None
    try:
        return replace(rows, n=source.weighted_count(amount_to_take(source, rows.n)[1]))
    except ValueError:
        return rows


def _less_certain(one: How, other: How) -> How:
    return max(one, other, key=_ORDER.index)


def _sum(rows: Sequence[Rows]) -> Rows:
    how: How = "counted"
    for r in rows:
        how = _less_certain(how, r.how)
    return Rows(sum(r.n for r in rows), how)


def _pass_on(counts: Counts, step: Step, given: Rows | None, gives: Rows | None, *subs: str) -> InAndOut:
    for sub in subs or ("",):
        counts.will_hold(step.folder / sub if sub else step.folder, gives)
    return InAndOut(given, gives)


def count_annotated(counts: Counts, step: Step) -> InAndOut:
    config = cast("ReviseConfig", step.config)
    rows = counts.at(config.input)
    return _pass_on(counts, step, rows, rows.at_most() if rows else None, "chain", "plain")


def count_one_to_one(counts: Counts, step: Step) -> InAndOut:
    config = cast("SampleConfig | SettleConfig", step.config)
    rows = counts.at(config.input)
    return _pass_on(counts, step, rows, rows.at_most() if rows else None)


def count_groups(counts: Counts, step: Step) -> InAndOut:
    """`group`, `score` and `claims` read several folders with the same queries."""
    config = cast("GroupConfig | SetsConfig", step.config)
    found = [rows for rows in map(counts.at, config.input) if rows]
    rows = max(found, key=lambda r: r.n) if found else None
    return _pass_on(counts, step, rows, rows.at_most() if rows else None)


def count_selected(counts: Counts, step: Step) -> InAndOut:
    config = cast("SelectConfig", step.config)
    rows = counts.at(config.input)
    if like := getattr(config, "keep_rows_of", None):
        return _pass_on(counts, step, rows, counts.at(like))
    kept = rows.times(counts.recipe.assume.keep_share, "assumed") if rows else None
    return _pass_on(counts, step, rows, kept)


def count_curated(counts: Counts, step: Step) -> InAndOut:
    config = cast("CurateConfig", step.config)
    found = [rows for rows in map(counts.at, config.input) if rows]
    rows = max(found, key=lambda r: r.n) if found else None
    kept = rows.times(counts.recipe.assume.keep_share, "assumed") if rows else None
    return _pass_on(counts, step, rows, kept, "selected")


def count_built(counts: Counts, step: Step) -> InAndOut:
    config = cast("BuildConfig", step.config)
    rows = counts.taken_rows(config.sources, config.total, config.when_short)
    return _pass_on(counts, step, rows, rows)


def count_mixed(counts: Counts, step: Step) -> InAndOut:
    config = cast("MixConfig", step.config)
    rows = counts.taken_rows(config.sources, config.total, config.when_short)
    return _pass_on(counts, step, rows, rows)


def count_trained(counts: Counts, step: Step) -> InAndOut:
    config = cast("TrainConfig", step.config)
    try:
        sources = config.data.chosen_sources()
    except ValueError:  # the mixture file does not exist
        return InAndOut(None, None)
    rows = counts.taken_rows(sources)
    return InAndOut(rows, rows)


# What says how many rows a step reads and writes: `counter` of its verb.
Counter = Callable[[Counts, Step], InAndOut]

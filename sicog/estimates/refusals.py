"""What a run of a recipe would be refused for, found before its first step: not after the hours that come before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sicog.data.rows.file_kinds import unreadable
from sicog.estimates.costs import devices_of
from sicog.estimates.counts import Counts, Rows
from sicog.runs.recipe import Recipe, Step
from sicog.runs.states import is_done
from sicog.training.config import TrainConfig


def refusals(recipe: Recipe, steps: Sequence[Step], counts: Counts) -> list[str]:
    """A sentence for each step whose sizes do not agree, that lacks a package, whose rows no step reads, or that
    gets fewer than an update.

    Steps that are done are left out, and so are missing inputs: `Recipe.missing` names those.
    """
    found: dict[str, str] = {}  # by sentence: steps that share a mistake say it once
    unwritten = [step.folder for step in recipe.steps if not is_done(step)]
    for step in steps:
        given = counts.of(step).given
        if is_done(step):
            continue
        devices = devices_of(step, recipe) if isinstance(step.config, TrainConfig) else 1
        for problem in [*_unreadable(step, unwritten), *step.config.problems(devices), *_too_few(step, given, devices)]:
            found.setdefault(problem, f"step {step.name!r}: {problem}")
    return list(found.values())


def _unreadable(step: Step, unwritten: Sequence[Path]) -> list[str]:
    """Rows that no step reads. What an earlier step is still to write may lie there half, and is not looked at."""
    given = [path for path in step.config.row_paths() if not {path, *path.parents} & set(unwritten)]
    return [problem for path in given for problem in unreadable(path)]


def _too_few(step: Step, rows: Rows | None, devices: int) -> list[str]:
    config = step.config
    if not isinstance(config, TrainConfig) or rows is None or rows.how == "assumed":
        return []
    try:
        batch = config.rows_per_update(devices)
    except ValueError:  # which `problems` says
        return []
    if rows.n >= batch:
        return []
    return [f"{rows} rows are fewer than an update has (global_batch {batch}); set a smaller global_batch"]

"""The reasons to refuse the run of a recipe, found before its first step and not hours later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sicog.data.rows.file_kinds import unreadable_message
from sicog.estimates.costs import devices_of
from sicog.estimates.counts import Counts, Rows
from sicog.runs.recipe import Recipe, Step
from sicog.runs.states import is_done
from sicog.training.config import TrainConfig


def refusals(recipe: Recipe, steps: Sequence[Step], counts: Counts) -> list[str]:
    """A sentence for each problem of a step: sizes that do not agree, a missing package, a file of a kind that no
    step reads, or fewer rows than an update.

    Skips steps that are done. Missing inputs are left to `Recipe.missing`.
    """
    found: dict[str, str] = {}  # by sentence: a mistake that steps share is reported once
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
    """Files of a kind that no step reads. Skips the output of unfinished steps, which may be incomplete."""
    given = [path for path in step.config.row_paths() if not {path, *path.parents} & set(unwritten)]
    return [problem for path in given for problem in unreadable_message(path)]


def _too_few(step: Step, rows: Rows | None, devices: int) -> list[str]:
    config = step.config
    if not isinstance(config, TrainConfig) or rows is None or rows.how == "assumed":
        return []
    try:
        batch = config.rows_per_update(devices)
    except ValueError:  # reported by `problems`
        return []
    if rows.n >= batch:
        return []
    return [f"{rows} rows are fewer than an update has (global_batch {batch}); set a smaller global_batch"]

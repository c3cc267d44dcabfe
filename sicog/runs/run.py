"""`sicog run RECIPE`: run the steps in order; skip finished unchanged steps, repeat changed ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sicog.console import stderr_console
from sicog.estimates.counts import Counts
from sicog.estimates.refusals import refusals
from sicog.runs.config import LauncherConfig
from sicog.runs.execute import execute_step, prepare_step
from sicog.runs.launchers.torchrun import run_by_torchrun
from sicog.runs.recipe import Recipe, Step, load_recipe
from sicog.runs.states import (
    STATES,
    is_done,
    read_state,
    write_plan,
)
from sicog.stages.launch import gpus
from sicog.stages.storage import file_lock


def run(path: str | Path, overrides: Sequence[str] = (), *, until: str | None = None) -> Path:
    """Run a recipe to its end (or up to the step `until`); returns the run's folder."""
    console, began = stderr_console(), time.monotonic()
    recipe = load_recipe(path, overrides)
    steps = recipe.until(until)
    if found := [*recipe.missing(steps), *refusals(recipe, steps, Counts(recipe))]:
        raise ValueError("; ".join(found))  # check now, before hours of work
    with file_lock(recipe.run_dir / STATES / "lock", recipe.run_dir):
        write_plan(recipe.run_dir, recipe.steps)  # plan of the whole run, so that a report of a part is possible
        if recipe.launcher.on == "slurm":
            from sicog.runs.launchers.slurm import submit_steps

            submit_steps(recipe, steps, console)
            return recipe.run_dir
        if recipe.launcher.jobs > 1:
            _run_independent_steps(recipe, steps, console)
        for number, step in enumerate(steps, 1):
            _run_step(step, f"[{number}/{len(steps)}] {step.name}", recipe, console)
    _print_times(steps, began, console)
    return recipe.run_dir


def _run_independent_steps(recipe: Recipe, steps: Sequence[Step], console: Console) -> None:
    """Run all unfinished steps at once; steps that print results come last, one by one."""
    from sicog.runs.launchers.side_by_side import run_side_by_side

    shown = {step.name for step in steps if step.verb.shows}
    left = [step for step in steps if not is_done(step) and step.name not in shown]
    if late := [step.name for step in left if shown & {*step.depends_on, *step.after}]:
        raise ValueError(f"step {late[0]!r} needs a step that runs last. Run this recipe with launcher.jobs=1")
    for step in left:
        prepare_step(step, step.name, console)
    run_side_by_side(left, recipe.launcher.jobs, console)


def _run_step(step: Step, title: str, recipe: Recipe, console: Console) -> None:
    if is_done(step):
        console.print(f"{title}: done", style="dim")
        if step.verb.shows:
            step.verb.run(step.config)
        return
    prepare_step(step, title, console)
    console.print(f"{title}: {step.verb.name}", style="bold")
    n = _processes(recipe.launcher) if step.verb.trains else 1
    if n > 1:
        run_by_torchrun(step, n)
    else:
        execute_step(step)


def _processes(launcher: LauncherConfig) -> int:
    return (launcher.processes or max(1, len(gpus()))) if launcher.on == "torchrun" else 1


def _print_times(steps: Sequence[Step], began: float, console: Console) -> None:
    table = Table("step", "verb", "seconds", title=f"{steps[0].run_dir}", title_justify="left")
    states = [read_state(step.run_dir, step.name) for step in steps]
    seconds = [state.seconds if state else 0.0 for state in states]
    for step, spent in zip(steps, seconds, strict=True):
        table.add_row(step.name, step.verb.name, f"{spent:.1f}")
    table.add_row("all", "", f"{sum(seconds):.1f}", style="bold")
    console.print(table)
    console.print(f"  {time.monotonic() - began:.0f} s in total, without steps that were done before")

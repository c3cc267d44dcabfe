"""`sicog run RECIPE`: the steps in order; what is done and unchanged is skipped, what changed is done again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sicog.console import stderr_console
from sicog.estimates.counts import Counts
from sicog.estimates.refusals import refusals
from sicog.runs.config import LauncherConfig
from sicog.runs.recipe import Recipe, Step, load_recipe
from sicog.runs.states import (
    STATES,
    begun,
    ended,
    is_done,
    job_is_alive,
    read_job,
    read_state,
    read_steps,
    write_plan,
    write_state,
)
from sicog.stages.launch import gpus
from sicog.stages.storage import locked
from sicog.training.time_limit import TO_BE_CONTINUED

_SAVING_S = "600"  # a stopped training has so long to save, of torchrun's patience


def run(path: Path, overrides: Sequence[str] = (), *, until: str | None = None) -> Path:
    """Run a recipe to its end (or up to the step `until`); returns the run's folder."""
    console, began = stderr_console(), time.monotonic()
    recipe = load_recipe(path, overrides)
    steps = recipe.until(until)
    if found := [*recipe.missing(steps), *refusals(recipe, steps, Counts(recipe))]:
        raise ValueError("; ".join(found))  # now, not after the hours that come before
    with locked(recipe.run_dir / STATES / "lock", recipe.run_dir):
        write_plan(recipe.run_dir, recipe.steps)  # of the whole run, so that a page can be made of a part of it
        if recipe.launcher.on == "slurm":
            from sicog.runs.launchers.slurm import submit

            submit(recipe, steps, console)
            return recipe.run_dir
        if recipe.launcher.jobs > 1:
            _side_by_side(recipe, steps, console)
        for number, step in enumerate(steps, 1):
            _run_step(step, f"[{number}/{len(steps)}] {step.name}", recipe, console)
    _print_times(steps, began, console)
    return recipe.run_dir


def run_planned(run_dir: Path, name: str, key: str | None = None) -> None:
    """Run one step of a planned run in this process, as the jobs of SLURM and the processes of torchrun do.

    key: refuse a step whose config or inputs have changed since. Raises `ValueError` when what it needs is not done,
    and where the paths of its config do not lead into `run_dir`.
    """
    steps = {step.name: step for step in read_steps(run_dir)}
    if name not in steps:
        raise ValueError(f"{run_dir} has no step {name!r}; its steps: {', '.join(steps)}")
    step = steps[name]
    if key not in (None, step.key):
        raise ValueError(f"step {name!r} of {run_dir} has changed since it was submitted; run its recipe again")
    _check_place(step)
    if missing := [other for other in (*step.depends_on, *step.after) if not is_done(steps[other])]:
        raise ValueError(f"step {name!r} of {run_dir} needs {', '.join(missing)} to be done before it")
    if is_done(step) and not step.verb.shows:
        return
    if int(os.environ.get("RANK", "0")):
        step.verb.run(step.config)
    else:
        carry_out(step)


def _check_place(step: Step) -> None:
    """A plan holds paths as the recipe gave them: from another folder, or for a copy, they are those of another run."""
    for key, sub in step.verb.outputs.items():
        writes = Path(getattr(step.config, key))
        if writes.resolve() != (step.folder / sub).resolve():
            raise ValueError(
                f"step {step.name!r} of {step.run_dir} would write to {writes.absolute()}: the run was started from "
                f"another folder, or is a copy. Call `sicog step` in the folder where its `sicog run` was called; of "
                f"a copy, run the recipe with run_dir={step.run_dir}"
            )


def carry_out(step: Step) -> None:
    """Do the work of a step in this process, and note in its state that it was begun and how it ended."""
    state = begun(step, read_state(step.run_dir, step.name))
    write_state(step, state)
    try:
        step.verb.run(step.config)
    except BaseException as error:
        failed = isinstance(error, Exception)
        write_state(step, ended(state, "failed" if failed else "stopped", str(error) if failed else None))
        raise
    write_state(step, ended(state, "done"))


def put_aside(step: Step) -> Path | None:
    """Move the output of another key away, so that the step begins anew; where it is now."""
    state = read_state(step.run_dir, step.name)
    if state is None or state.key == step.key or not step.folder.exists():
        return None
    aside = step.run_dir / ".replaced" / f"{step.name}-{state.key[:8]}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    step.folder.rename(aside)
    return aside


def _side_by_side(recipe: Recipe, steps: Sequence[Step], console: Console) -> None:
    """All steps that are not done, but for those that show something, which come when the others are done."""
    from sicog.runs.launchers.side_by_side import run_side_by_side

    shown = {step.name for step in steps if step.verb.shows}
    left = [step for step in steps if not is_done(step) and step.name not in shown]
    if late := [step.name for step in left if shown & {*step.depends_on, *step.after}]:
        raise ValueError(f"step {late[0]!r} reads what is only shown; run this recipe with launcher.jobs=1")
    for step in left:
        _begin(step, step.name, console)
    run_side_by_side(left, recipe.launcher.jobs, console)


def _begin(step: Step, title: str, console: Console) -> None:
    """Refuse a step that a job works on, and move its old output aside."""
    job = read_job(step.run_dir, step.name)
    if job and job_is_alive(job.job):
        raise ValueError(
            f"step {step.name!r} is job {job.job} of SLURM; wait for it (sicog status {step.run_dir}), end it with "
            f"scancel {job.job}, or resume with launcher.on=slurm"
        )
    if aside := put_aside(step):
        console.print(f"{title}: its config or inputs changed; the old output is now {aside}", highlight=False)


def _run_step(step: Step, title: str, recipe: Recipe, console: Console) -> None:
    if is_done(step):
        console.print(f"{title}: done", style="dim", highlight=False)
        if step.verb.shows:
            step.verb.run(step.config)
        return
    _begin(step, title, console)
    console.print(f"{title}: {step.verb.name}", style="bold", highlight=False)
    n = _processes(recipe.launcher) if step.verb.name == "train" else 1
    if n > 1:
        _by_torchrun(step, n)
    else:
        carry_out(step)


def _processes(launcher: LauncherConfig) -> int:
    return (launcher.processes or max(1, len(gpus()))) if launcher.on == "torchrun" else 1


def _by_torchrun(step: Step, processes: int) -> None:
    """Run a step as several processes of this machine. Ends as they end: code 75 says that a stopped one was saved."""
    begin = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*begin, "-m", "sicog", "step", str(step.run_dir), step.name, "--key", step.key]
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": _SAVING_S, **os.environ}
    with subprocess.Popen(command, env=patience) as started:
        try:
            code = started.wait()
        except BaseException:  # Ctrl-C reaches both; a signal to this process alone is passed on
            started.terminate()
            started.wait()
            raise
    state = read_state(step.run_dir, step.name)
    if code == 0 and is_done(step):
        return
    if state and state.state == "stopped":
        raise SystemExit(TO_BE_CONTINUED)
    raise ValueError(
        f"step {step.name!r} failed in its {processes} processes: "
        f"{state.error if state and state.error else f'exit code {code}, see above'}"
    )


def _print_times(steps: Sequence[Step], began: float, console: Console) -> None:
    table = Table("step", "verb", "seconds", title=f"{steps[0].run_dir}", title_justify="left")
    states = [read_state(step.run_dir, step.name) for step in steps]
    seconds = [state.seconds if state else 0.0 for state in states]
    for step, spent in zip(steps, seconds, strict=True):
        table.add_row(step.name, step.verb.name, f"{spent:.1f}")
    table.add_row("all", "", f"{sum(seconds):.1f}", style="bold")
    console.print(table)
    console.print(
        f"  {time.monotonic() - began:.0f} s on the clock, steps that were done before left out", highlight=False
    )

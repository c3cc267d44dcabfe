"""Run one step in this process: check that it may start, do its work, and record its state."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rich.console import Console

from sicog.runs.recipe import Step
from sicog.runs.states import (
    ended_state,
    is_done,
    job_is_alive,
    read_job,
    read_state,
    read_steps,
    started_state,
    write_state,
)


def run_planned(run_dir: Path, name: str, key: str | None = None) -> None:
    """Run one step of a planned run in this process, as SLURM jobs and torchrun processes do.

    key: refuse a step whose config or inputs have changed. Raises `ValueError` when a step that it needs is not done,
    and when its config's paths do not lead into `run_dir`.
    """
    steps = {step.name: step for step in read_steps(run_dir)}
    if name not in steps:
        raise ValueError(f"{run_dir} has no step {name!r}. Use one of: {', '.join(steps)}")
    step = steps[name]
    if key not in (None, step.key):
        raise ValueError(f"step {name!r} of {run_dir} has changed since it was submitted. Run its recipe again")
    _check_place(step)
    if missing := [other for other in (*step.depends_on, *step.after) if not is_done(steps[other])]:
        raise ValueError(f"step {name!r} of {run_dir} needs {', '.join(missing)}. Run these steps first")
    if is_done(step) and not step.verb.shows:
        return
    if int(os.environ.get("RANK", "0")):
        step.verb.run(step.config)
    else:
        execute_step(step)


def _check_place(step: Step) -> None:
    """Raise `ValueError` when the paths of a plan lead to another run: after a copy, or from another folder."""
    for key, sub in step.verb.outputs.items():
        writes = Path(getattr(step.config, key))
        if writes.resolve() != (step.folder / sub).resolve():
            raise ValueError(
                f"step {step.name!r} of {step.run_dir} would write to {writes.absolute()}: the run was started from "
                f"another folder, or is a copy. Call `sicog step` in the folder where `sicog run` was called. For a "
                f"copy, run the recipe with run_dir={step.run_dir}"
            )


def execute_step(step: Step) -> None:
    """Do the work of a step in this process, and record its start and its end in its state."""
    state = started_state(step, read_state(step.run_dir, step.name))
    write_state(step, state)
    try:
        step.verb.run(step.config)
    except BaseException as error:
        failed = isinstance(error, Exception)
        write_state(step, ended_state(state, "failed" if failed else "stopped", str(error) if failed else None))
        raise
    write_state(step, ended_state(state, "done"))


def move_aside(step: Step) -> Path | None:
    """Move the output of another key away, so that the step starts from scratch; returns the new path."""
    state = read_state(step.run_dir, step.name)
    if state is None or state.key == step.key or not step.folder.exists():
        return None
    aside = step.run_dir / ".replaced" / f"{step.name}-{state.key[:8]}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    step.folder.rename(aside)
    return aside


def prepare_step(step: Step, title: str, console: Console) -> None:
    """Refuse a step with a running job, and move its old output aside."""
    job = read_job(step.run_dir, step.name)
    if job and job_is_alive(job.job):
        raise ValueError(
            f"step {step.name!r} is running as SLURM job {job.job}. Wait for it (sicog status {step.run_dir}), cancel "
            f"it with scancel {job.job}, or resume with launcher.on=slurm"
        )
    if aside := move_aside(step):
        console.print(f"{title}: its config or inputs changed; the old output is now {aside}")

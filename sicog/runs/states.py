"""States of a run's steps: `.steps/NAME.json` per step, `.steps/NAME.job` per SLURM job, and the plan `recipe.json`.

The process that runs a step writes its state; the process that submits a step writes its job.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sicog.config import validate
from sicog.runs.config import JobConfig
from sicog.runs.recipe import Step
from sicog.runs.verbs import VERBS
from sicog.stages.storage import read_json, write_json

STATES, PLAN = ".steps", "recipe.json"
How = Literal["started", "stopped", "failed", "done"]
# Status of a step. `stopped`: also when its process is gone; `changed`: done with another config.
Standing = Literal["waiting", "queued", "running", "stopped", "failed", "done", "changed"]


@dataclass(frozen=True)
class State:
    """State of the latest attempt of a step.

    seconds: total time of all finished attempts. since: Unix time at its start. pid, host: of its process.
    error: its final error message.
    """

    key: str
    state: How
    seconds: float = 0.0
    since: float = 0.0
    pid: int | None = None
    host: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """The SLURM job of a step, and the step's key at submission."""

    key: str
    job: str


def state_file(run_dir: Path, name: str) -> Path:
    """Return the state file of a step."""
    return run_dir / STATES / f"{name}.json"


def read_state(run_dir: Path, name: str) -> State | None:
    """Return the latest state of a step, None if it was never started."""
    path = state_file(run_dir, name)
    if not path.is_file():
        return None
    found = read_json(path)
    return State(**{key: value for key, value in found.items() if key in State.__dataclass_fields__})


def read_job(run_dir: Path, name: str) -> Job | None:
    """Return the latest job of a step, None without one."""
    path = state_file(run_dir, name).with_suffix(".job")
    return Job(**read_json(path)) if path.is_file() else None


def write_job(step: Step, job: str) -> None:
    """Store the submitted job of a step."""
    write_json(state_file(step.run_dir, step.name).with_suffix(".job"), asdict(Job(step.key, job)))


def write_state(step: Step, state: State) -> None:
    """Store the state of a step."""
    values = {key: value for key, value in asdict(state).items() if value is not None}
    values["seconds"] = round(state.seconds, 1)
    write_json(state_file(step.run_dir, step.name), values | {"verb": step.verb.name})


def started_state(step: Step, before: State | None) -> State:
    """Return the state of a step that this process starts; time of earlier attempts with the same key is added."""
    mine = before if before and before.key == step.key else None
    return State(step.key, "started", mine.seconds if mine else 0.0, time.time(), os.getpid(), socket.gethostname())


def ended_state(state: State, how: How, error: str | None = None) -> State:
    """Return the state after the end of the attempt that `state` started."""
    return replace(state, state=how, seconds=state.seconds + time.time() - state.since, error=error)


def is_done(step: Step) -> bool:
    """Return whether the step's output exists and has its current key."""
    state = read_state(step.run_dir, step.name)
    return bool(state and state.state == "done" and state.key == step.key and step.folder.is_dir())


def step_standing(step: Step) -> tuple[Standing, State | None]:
    """Return the status of a step, and its state if that has the current key."""
    found, job = read_state(step.run_dir, step.name), read_job(step.run_dir, step.name)
    state = found if found and found.key == step.key else None
    if state and state.state == "done" and step.folder.is_dir():
        return "done", state
    if state and state.state == "started" and _is_running(state, job):
        return "running", state
    if job and job.key == step.key and job_is_alive(job.job):
        return "queued", state
    if state is None or state.state == "done":
        if job and job.key == step.key:
            return "stopped", state  # the job is gone and never started
        return ("changed" if found and found.state == "done" and state is None else "waiting"), state
    return ("failed" if state.state == "failed" else "stopped"), state


def _is_running(state: State, job: Job | None) -> bool:
    """Return whether the step's process is alive. On another machine SLURM is asked; without SLURM assume yes."""
    if state.host != socket.gethostname():
        alive = job_is_alive(job.job) if job else None
        return alive if alive is not None else True
    assert state.pid is not None
    if not process_is_alive(state.pid):
        return False
    started = _process_start_time(state.pid)
    return started is None or started <= state.since + 1  # otherwise the process id was reused


def process_is_alive(pid: int) -> bool:
    """Return whether a process of this machine is running; a zombie (in a container without init) is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:  # no /proc on this system, or the process has ended
        return not Path("/proc/self").exists()


def job_is_alive(job: str) -> bool | None:
    """Return whether this SLURM job is waiting or running; None without SLURM."""
    if not shutil.which("squeue"):
        return None
    asked = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return found.returncode == 0 and bool(found.stdout.strip())


def current_path(path: Path, then: Path, folder: Path) -> Path:
    """Return a path recorded for the run folder `then`, adjusted to its current place `folder`.

    A run may be moved, copied, or read from another folder than it was started in.
    """
    now, n_parts = folder.resolve(), len(then.parts)
    if path.is_relative_to(then):
        return folder / path.relative_to(then)
    started_here = not then.is_absolute() and now.parts[-n_parts:] == then.parts
    return now.parents[n_parts - 1] / path if started_here and not path.is_absolute() else path


def write_plan(run_dir: Path, steps: Sequence[Step]) -> None:
    """Store the steps of the whole run; an equal file is not written again."""
    plan = [_plan_entry(step) for step in steps]
    if not (run_dir / PLAN).is_file() or read_plan(run_dir) != plan:
        write_json(run_dir / PLAN, plan)


def read_plan(run_dir: Path) -> list[dict[str, Any]]:
    """Return the steps of the latest run in this folder: name, verb, config, key and dependencies.

    Raises `ValueError` without a run.
    """
    if not (run_dir / PLAN).is_file():
        raise ValueError(
            f"{run_dir} is not a run of a recipe: {PLAN}, which `sicog run` writes, is missing. Only such runs have a "
            f"status and steps. For any other folder use `sicog report {run_dir}`"
            if run_dir.is_dir()
            else f"{run_dir} does not exist. Give the run_dir of a recipe"
        )
    plan: list[dict[str, Any]] = read_json(run_dir / PLAN)
    return plan


def read_steps(run_dir: Path) -> list[Step]:
    """Return the steps of the latest run in this folder, ready to run. Raises `ValueError` without a run."""
    return [
        Step(
            name=entry["name"],
            verb=(verb := VERBS[entry["verb"]]),
            config=validate(verb.config_type(), entry["config"], f"{run_dir / PLAN}, step {entry['name']!r}"),
            run_dir=run_dir,
            depends_on=tuple(entry["depends_on"]),
            after=tuple(entry["after"]),
            key=entry["key"],
            job=JobConfig(),
        )
        for entry in read_plan(run_dir)
    ]


def _plan_entry(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "verb": step.verb.name,
        "config": step.config.model_dump(mode="json"),
        "depends_on": list(step.depends_on),
        "after": list(step.after),
        "key": step.key,
    }


def _process_start_time(pid: int) -> float | None:
    """Return the Unix time at which a process of this machine started; None if unknown."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(boot[1]) + int(after_name[19]) / os.sysconf("SC_CLK_TCK") if boot else None

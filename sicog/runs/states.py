"""How far the steps of a run are: `.steps/NAME.json` each, `.steps/NAME.job` of one that was submitted to SLURM, and
`recipe.json`, the plan that they are of. Whoever works on a step writes its state, whoever submits it its job."""

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
# How a step stands now: `stopped` is also one whose process is gone, `changed` one that is done of another config.
Standing = Literal["waiting", "queued", "running", "stopped", "failed", "done", "changed"]


@dataclass(frozen=True)
class State:
    """What is known of the newest try of a step.

    seconds: spent on it by all tries that have ended. since: when the newest began, in Unix time. pid, host: of whom.
    error: the sentence that it ended with.
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
    """The number of the job in SLURM that was submitted for a step, and the step's key then."""

    key: str
    job: str


def state_file(run_dir: Path, name: str) -> Path:
    """Where the state of a step lies."""
    return run_dir / STATES / f"{name}.json"


def read_state(run_dir: Path, name: str) -> State | None:
    """The newest state of a step, None when it was never begun."""
    path = state_file(run_dir, name)
    if not path.is_file():
        return None
    found = read_json(path)
    return State(**{key: value for key, value in found.items() if key in State.__dataclass_fields__})


def read_job(run_dir: Path, name: str) -> Job | None:
    """The newest job that was submitted for a step, None when there was none."""
    path = state_file(run_dir, name).with_suffix(".job")
    return Job(**read_json(path)) if path.is_file() else None


def write_job(step: Step, job: str) -> None:
    """Note the job that was submitted for a step."""
    write_json(state_file(step.run_dir, step.name).with_suffix(".job"), asdict(Job(step.key, job)))


def write_state(step: Step, state: State) -> None:
    """Note how far a step is."""
    values = {key: value for key, value in asdict(state).items() if value is not None}
    values["seconds"] = round(state.seconds, 1)
    write_json(state_file(step.run_dir, step.name), values | {"verb": step.verb.name})


def begun(step: Step, before: State | None) -> State:
    """The state of a step that this process begins: the time of earlier tries of the same key counts on."""
    mine = before if before and before.key == step.key else None
    return State(step.key, "started", mine.seconds if mine else 0.0, time.time(), os.getpid(), socket.gethostname())


def ended(state: State, how: How, error: str | None = None) -> State:
    """The state after the try that `state` began."""
    return replace(state, state=how, seconds=state.seconds + time.time() - state.since, error=error)


def is_done(step: Step) -> bool:
    """Whether the step's output is there and of its present key."""
    state = read_state(step.run_dir, step.name)
    return bool(state and state.state == "done" and state.key == step.key and step.folder.is_dir())


def standing(step: Step) -> tuple[Standing, State | None]:
    """How a step stands now, and its state where that is of its present key."""
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
            return "stopped", state  # the job is gone, and never began
        return ("changed" if found and found.state == "done" and state is None else "waiting"), state
    return ("failed" if state.state == "failed" else "stopped"), state


def _is_running(state: State, job: Job | None) -> bool:
    """Whether the process that began it lives. On another machine SLURM is asked; without it, it is taken to live."""
    if state.host != socket.gethostname():
        alive = job_is_alive(job.job) if job else None
        return alive if alive is not None else True
    assert state.pid is not None
    if not lives(state.pid):
        return False
    started = _process_started(state.pid)
    return started is None or started <= state.since + 1  # else the number was given to another process since


def lives(pid: int) -> bool:
    """Whether a process of this machine is at work: one that has ended is not, even where nobody has asked how, as in a
    container without an init."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:  # no such folder on this system, or it has ended since
        return not Path("/proc/self").exists()


def job_is_alive(job: str) -> bool | None:
    """Whether SLURM has this job waiting or running; None where there is no SLURM to ask."""
    if not shutil.which("squeue"):
        return None
    asked = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return found.returncode == 0 and bool(found.stdout.strip())


def lies_now(path: Path, then: Path, folder: Path) -> Path:
    """A path of a run that was written into `then`, as `folder` lies now: a run may be moved, copied or read from
    another folder than it was started in."""
    now, n_parts = folder.resolve(), len(then.parts)
    if path.is_relative_to(then):
        return folder / path.relative_to(then)
    started_here = not then.is_absolute() and now.parts[-n_parts:] == then.parts
    return now.parents[n_parts - 1] / path if started_here and not path.is_absolute() else path


def write_plan(run_dir: Path, steps: Sequence[Step]) -> None:
    """Note the steps of the whole run; a file that says the same is left alone."""
    plan = [_planned(step) for step in steps]
    if not (run_dir / PLAN).is_file() or read_plan(run_dir) != plan:
        write_json(run_dir / PLAN, plan)


def read_plan(run_dir: Path) -> list[dict[str, Any]]:
    """The steps of the newest run in this folder: name, verb, config, key and what they wait for.

    Raises `ValueError` when there was none.
    """
    if not (run_dir / PLAN).is_file():
        raise ValueError(
            f"{run_dir} is no run of a recipe: it holds no {PLAN}, which `sicog run` writes. Only these have a status "
            f"and steps; `sicog report {run_dir}` shows what any folder holds"
            if run_dir.is_dir()
            else f"{run_dir} does not exist; name the run_dir of a recipe"
        )
    plan: list[dict[str, Any]] = read_json(run_dir / PLAN)
    return plan


def read_steps(run_dir: Path) -> list[Step]:
    """The steps of the newest run in this folder, ready to run. Raises `ValueError` when there was none."""
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


def _planned(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "verb": step.verb.name,
        "config": step.config.model_dump(mode="json"),
        "depends_on": list(step.depends_on),
        "after": list(step.after),
        "key": step.key,
    }


def _process_started(pid: int) -> float | None:
    """Unix time at which a process of this machine began; None where the system does not tell."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(boot[1]) + int(after_name[19]) / os.sysconf("SC_CLK_TCK") if boot else None

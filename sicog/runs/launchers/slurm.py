"""`launcher: slurm`: submit a job with its dependencies for every step that is not done.

Only missing jobs are submitted, so the same command resumes a run with failed or cancelled jobs.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sicog.runs.execute import move_aside
from sicog.runs.recipe import Recipe, Step
from sicog.runs.states import STATES, is_done, job_is_alive, read_job, write_job
from sicog.stages.launch import LaunchConfig
from sicog.stages.storage import read_json, write_bytes

_TRAINING_JOB = "training_scripts/slurm.sbatch"


def submit_steps(recipe: Recipe, steps: Sequence[Step], console: Console) -> dict[str, str]:
    """Submit the jobs of these steps; returns the waiting and running jobs, by step.

    Raises `ValueError` when SLURM is missing or refuses a job.
    """
    if not shutil.which("sbatch") or not shutil.which("squeue"):
        raise ValueError(
            "sbatch and squeue are not on PATH, but launcher.on: slurm needs them. "
            "Run this on a login node of the cluster"
        )
    jobs: dict[str, str] = {}
    for number, step in enumerate(steps, 1):
        title = f"[{number}/{len(steps)}] {step.name}"
        if is_done(step):
            console.print(f"{title}: done", style="dim")
            continue
        before = read_job(step.run_dir, step.name)
        if before and job_is_alive(before.job):
            if before.key != step.key:
                raise ValueError(
                    f"step {step.name!r} has changed, but job {before.job} still runs its old version. Cancel it "
                    f"first: scancel {before.job}"
                )
            jobs[step.name] = before.job
            console.print(f"{title}: job {before.job} is there already", style="dim")
            continue
        if aside := move_aside(step):
            console.print(f"{title}: its config or inputs changed; the old output is now {aside}")
        jobs[step.name] = job = _submit_job(
            recipe, step, [jobs[n] for n in (*step.depends_on, *step.after) if n in jobs]
        )
        write_job(step, job)
        console.print(f"{title}: {step.verb.name}, job {job}", style="bold")
    if jobs:
        console.print(
            f"  {len(jobs)} jobs wait or run; where they are: sicog status {recipe.run_dir}; to stop them all: "
            f"scancel {' '.join(jobs.values())}",
            soft_wrap=True,
        )
    return jobs


def _submit_job(recipe: Recipe, step: Step, needed: Sequence[str]) -> str:
    script = recipe.run_dir / STATES / f"{step.name}.sbatch"
    output = script.with_suffix(".log").absolute()
    write_bytes(script, job_script(step, output).encode())
    conditions = [f"afterok:{':'.join(needed)}"] if needed else []
    conditions += [f"afterany:{job}" for job in _running_array(step)]
    depends = [f"--dependency={','.join(conditions)}", "--kill-on-invalid-dep=yes"] if conditions else []
    done = subprocess.run(["sbatch", *depends, str(script)], capture_output=True, text=True, check=False)
    found = re.search(r"Submitted batch job (\d+)", done.stdout)
    if done.returncode or not found:
        raise ValueError(
            f"SLURM refused the job of step {step.name!r}: {(done.stderr or done.stdout).strip()}. Correct `launcher` "
            f"or the step's `job`, and run the same command again (the submitted script is {script})"
        )
    return found[1]


def job_script(step: Step, output: Path) -> str:
    """Return the batch script of a step's job."""
    job, trains = step.job, step.verb.trains
    launch = getattr(step.config, "launch", None)
    heads_array = isinstance(launch, LaunchConfig) and launch.on == "slurm"
    options = {
        "job-name": f"{step.run_dir.name}-{step.name.replace('/', '-')}",
        "output": str(output),
        "nodes": str(job.nodes if trains else 1),
        "ntasks-per-node": str(max(1, job.gpus) if trains else 1),
        "cpus-per-task": "1" if heads_array else str(job.cpus),
        "time": job.time,
    }
    options |= {"gpus-per-node": str(job.gpus)} if job.gpus and not heads_array else {}
    options |= {"mem": f"{job.memory_gb}G"} if job.memory_gb and not heads_array else {}
    options |= {"partition": job.partition} if job.partition else {}
    options |= {"signal": "B:USR1@300", "open-mode": "append"} if trains else {"open-mode": "append"}
    lines = [f"#SBATCH --{name}={value}" for name, value in {**options, **job.options}.items()]
    lines += ["#SBATCH --requeue"] if trains else []
    command = ["-m", "sicog", "step", str(step.run_dir), step.name, "--key", step.key]
    run = shlex.join([sys.executable, *command])
    body = f"set -- {run}\n{_training_job()}" if trains else f"exec {run}\n"
    return "\n".join(
        ["#!/usr/bin/env bash", *lines, f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"', body]
    )


def _training_job() -> str:
    """Return the body of slurm.sbatch, which starts a training's processes, forwards signals and requeues the job."""
    file = Path(__file__).parents[3] / _TRAINING_JOB
    if not file.is_file():
        raise ValueError(
            f"{_TRAINING_JOB} is missing next to the package, but launcher.on: slurm needs it. Run pip install -e ."
        )
    return "".join(line for line in file.read_text().splitlines(keepends=True) if not line.startswith("#"))


def _running_array(step: Step) -> list[str]:
    """Return the array of a finished job that is still running; the new job waits for it instead of its own."""
    launch = getattr(step.config, "launch", None)
    if not isinstance(launch, LaunchConfig) or launch.on != "slurm":
        return []
    from sicog.stages.cluster import JOBS, LOGS

    file = step.folder / LOGS / JOBS
    job = str(read_json(file)["finish"]) if file.is_file() else None
    return [job] if job and job_is_alive(job) else []

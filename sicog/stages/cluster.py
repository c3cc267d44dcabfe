"""Data stages on SLURM job arrays and Ray, through datatrove's executors: a task of theirs is a shard of ours."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sicog.console import say
from sicog.stages.journal import WORK
from sicog.stages.launch import LaunchConfig
from sicog.stages.shard import Finish, ShardTask
from sicog.stages.storage import file_lock, is_finished, write_json
from sicog.stages.threads import use_threads

try:
    from datatrove.executor.ray import RayPipelineExecutor
    from datatrove.executor.slurm import SlurmPipelineExecutor
except ImportError:
    raise ValueError(
        "launch.on: slurm and ray need datatrove; install it with `pip install 'sicog[cluster]'`"
    ) from None

LOOK_EVERY_S = 10.0
_MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")  # options of sbatch: a job may have one of them
LOGS, JOBS = ".launch", "jobs.json"  # beside the shards: what datatrove knows of the tasks, and their output


class RunShard:
    """A step of a datatrove pipeline: task `rank` writes shard `rank`. What it loads stays for the next one."""

    def __init__(self, task: ShardTask, cpus: int) -> None:
        self.task = task
        self.cpus = cpus

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        use_threads(self.cpus)
        self.task(rank)


class RunFinish:
    """A step of a datatrove pipeline: shards and manifest from what the tasks left, and what follows."""

    def __init__(self, finish: Finish, then: Callable[[], object]) -> None:
        self.finish, self.then = finish, then

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        out_dir = self.finish.out_dir
        if not is_finished(out_dir):  # else of an earlier job
            with file_lock(out_dir / WORK / "lock", out_dir):
                self.finish()
        self.then()


class _Slurm(SlurmPipelineExecutor):
    """datatrove's executor without its job that merges statistics, and without options that have no value.

    memory_gb: of a task on its node. datatrove asks for memory by core; SLURM takes one of the two.
    """

    def __init__(self, pipeline: list[Any], memory_gb: int, **values: Any) -> None:
        super().__init__(pipeline, **values)
        self.memory_gb = memory_gb

    def launch_merge_stats(self) -> None:
        pass

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        options = super().get_sbatch_args(max_array)
        given = {name: self._sbatch_args[name] for name in _MEMORY if name in self._sbatch_args}
        options = {name: value for name, value in options.items() if name not in _MEMORY}
        options |= given or {"mem": f"{self.memory_gb}G"}
        return {name: value for name, value in options.items() if value or name == "requeue"}


def launch_shards(
    launch: LaunchConfig, task: ShardTask, finish: Finish, then: Callable[[], object] = lambda: None
) -> None:
    """Submit what is missing to SLURM, or run it on Ray and finish. Tasks continue inside a shard as anywhere.

    then: what follows the finish, in its job.
    """
    logs = task.out_dir / LOGS
    _forget_lost(logs / "shards" / "completions", task.out_dir / WORK)
    if launch.on == "ray":
        _ray(launch, task, finish.n_shards, logs).run()
        RunFinish(finish, then)(None)
        return
    shards = _slurm(
        launch,
        [RunShard(task, launch.cpus)],
        logs / "shards",
        job_name=task.step,
        tasks=finish.n_shards,
        tasks_per_job=-(-finish.n_shards // launch.tasks),
        gpus_per_task=launch.gpus,
        sbatch_args=launch.options,
    )
    finishing = _slurm(
        launch,
        [RunFinish(finish, then)],
        logs / "finish",
        job_name=f"{task.step}-finish",
        tasks=1,
        depends=shards,
        skip_completed=False,
        # One that waits for tasks which have failed would wait for ever.
        sbatch_args={**launch.options, "kill-on-invalid-dep": "yes"},
    )
    finishing.run()
    write_json(logs / JOBS, {"shards": shards.job_id, "finish": finishing.job_id})
    say(
        f"{task.step}: submitted job {finishing.job_id}, which finishes {task.out_dir} after its tasks; their output "
        f"is in {logs}. Run the same command again if tasks were lost: only what is missing is submitted"
    )
    if launch.wait:
        _wait_for(str(finishing.job_id), task.out_dir)


def _wait_for(job_id: str, out_dir: Path) -> None:
    """Until the job ended, with what follows the finish in it. Raises `ValueError` when the folder is not finished."""
    while _is_queued(job_id):
        time.sleep(LOOK_EVERY_S)
    if not is_finished(out_dir):
        raise ValueError(
            f"job {job_id} ended and {out_dir} is not finished; see the tasks' output in {out_dir / LOGS}, and run "
            f"the same command again: only what is missing is submitted"
        )


def _is_queued(job_id: str) -> bool:
    """Whether SLURM knows the job as waiting or running; yes while it does not answer."""
    asked = subprocess.run(["squeue", "--noheader", "--jobs", job_id], capture_output=True, text=True, check=False)
    if asked.returncode:
        return "Invalid job id" not in asked.stderr  # what it says of a job that ended some minutes ago
    return bool(asked.stdout.strip())


def _slurm(launch: LaunchConfig, pipeline: list[Any], logs: Path, **values: Any) -> _Slurm:
    return _Slurm(
        pipeline,
        launch.task_memory_gb,
        time=launch.time,
        partition=launch.partition,
        cpus_per_task=launch.cpus,
        qos="",
        logging_dir=str(logs.absolute()),
        # The environment of this process: its tools are not on PATH where it was not activated.
        env_command=f'export PATH="{Path(sys.executable).parent}:$PATH"',
        mail_type="NONE",
        **values,
    )


def _ray(launch: LaunchConfig, task: ShardTask, n_shards: int, logs: Path) -> RayPipelineExecutor:
    return RayPipelineExecutor(
        [RunShard(task, launch.cpus)],
        tasks=n_shards,
        workers=launch.tasks,
        cpus_per_task=launch.cpus,
        mem_per_cpu_gb=launch.task_memory_gb / launch.cpus,
        gpus_per_task=launch.gpus,
        logging_dir=str((logs / "shards").absolute()),
    )


def _forget_lost(completions: Path, work: Path) -> None:
    """A task whose journal is gone is not done, whatever datatrove noted."""
    for marker in completions.glob("*") if completions.is_dir() else ():
        if not (work / f"journal-{marker.name}.jsonl").is_file():
            marker.unlink()

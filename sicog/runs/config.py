"""Config of a recipe besides its steps: inputs from outside, and launchers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.config.paths import NameOrPath


class InputSpec(Config):
    """An input from outside; steps name it as `${inputs.NAME}`."""

    path: NameOrPath = Field(min_length=1)
    """A file, a folder, or the id of a Hugging Face model in the local cache."""
    rows: int | None = Field(default=None, ge=0)
    """Expected number of rows; a plan compares it with the real number."""
    get: str = ""
    """Source of the input, for messages."""


class JobConfig(Config):
    """SLURM resources of one step."""

    nodes: int = Field(default=1, ge=1)
    """Number of nodes."""
    gpus: int = Field(default=0, ge=0)
    """GPUs per node; a training has one process per GPU."""
    cpus: int = Field(default=8, ge=1)
    """CPU cores per process."""
    memory_gb: int | None = Field(default=None, ge=1)
    """Memory in GB that the job has on each node, or each task of its array; null: SLURM's own, and for a task of an
    array 4 for each core."""
    time: str = "24:00:00"
    partition: str | None = None
    options: dict[str, str] = {}


class LauncherConfig(Config):
    """How to start steps. Results do not depend on it, so a run may resume with another launcher."""

    on: Literal["local", "torchrun", "slurm"] = "local"
    """`local`: run step after step in this process. `torchrun`: the same, but each training as `processes` processes of
    this machine. `slurm`: submit every step as a job with its dependencies, and return."""
    processes: int | None = Field(default=None, ge=1)
    """Processes of a training, for `torchrun`; null: the number of GPUs of this machine."""
    jobs: int = Field(default=1, ge=1)
    """Number of independent steps to run at once, for `local`. Each runs in its own process, on a share of the cores;
    its output is in `.steps/NAME.log` of the run."""
    train: JobConfig = JobConfig(gpus=8)
    """Job of a training; a step's own `job` overrides it key by key."""
    data: JobConfig = JobConfig()
    """Job of any other step; a step's own `job` overrides it key by key."""
    array_tasks: int = Field(default=8, ge=1)
    """Tasks of a sampling array, each with its own GPU."""

    @model_validator(mode="after")
    def _check_jobs(self) -> LauncherConfig:
        if self.jobs > 1 and self.on != "local":
            raise ValueError(
                f"jobs: {self.jobs} works only with on: local, not on: {self.on}. Remove jobs or set on: local"
            )
        return self

    def job(self, *, trains: bool, own: dict[str, Any]) -> JobConfig:
        """Return the job of a step. Raises pydantic's error for unknown keys."""
        return JobConfig.model_validate((self.train if trains else self.data).model_dump() | own)

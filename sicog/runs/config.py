"""What a recipe sets beside its steps: inputs from outside, and how steps are started."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.config.paths import NameOrPath


class InputSpec(Config):
    """Something from outside that steps name as `${inputs.NAME}`."""

    path: NameOrPath = Field(min_length=1)
    """A file, a folder, or for a model also its id on the Hugging Face hub, looked up in the local cache."""
    rows: int | None = Field(default=None, ge=0)
    """Rows that it should hold; a plan compares it with the rows it holds."""
    get: str = ""
    """Where to get it."""


class JobConfig(Config):
    """What SLURM is asked for one step."""

    nodes: int = Field(default=1, ge=1)
    """Nodes."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of each node, and so many processes of a training."""
    cpus: int = Field(default=8, ge=1)
    """CPU cores of each process."""
    memory_gb: int | None = Field(default=None, ge=1)
    """Memory in GB that the job has on each node, or each task of its array; null: SLURM's own, and for a task of an
    array 4 for each core."""
    time: str = "24:00:00"
    partition: str | None = None
    options: dict[str, str] = {}


class LauncherConfig(Config):
    """How steps are started; results do not depend on it, so a run may resume with another launcher."""

    on: Literal["local", "torchrun", "slurm"] = "local"
    """`local` runs step after step in this process; `torchrun` the same, but a training as `processes` processes of
    this machine; `slurm` submits every step as a job that waits for those it needs, and returns."""
    processes: int | None = Field(default=None, ge=1)
    """With `torchrun`: processes of a training; null: as many as this machine has GPUs."""
    jobs: int = Field(default=1, ge=1)
    """With `local`: so many steps that do not wait for each other run at once, in processes of their own that share the
    cores; what they print is in `.steps/NAME.log` of the run."""
    train: JobConfig = JobConfig(gpus=8)
    """The job of a training; a step's own `job` overrides it key by key."""
    data: JobConfig = JobConfig()
    """The job of any other step; a step's own `job` overrides it key by key."""
    array_tasks: int = Field(default=8, ge=1)
    """Tasks of the array that samples, each with a GPU of its own."""

    @model_validator(mode="after")
    def _side_by_side_is_local(self) -> LauncherConfig:
        if self.jobs > 1 and self.on != "local":
            raise ValueError(f"jobs: {self.jobs} is for on: local; {self.on} shares the machine in its own way")
        return self

    def job(self, *, trains: bool, own: dict[str, Any]) -> JobConfig:
        """The job of a step. Raises pydantic's error for keys that are none."""
        return JobConfig.model_validate((self.train if trains else self.data).model_dump() | own)

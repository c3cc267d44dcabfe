"""What a recipe says beside its steps: inputs from outside, how steps are started, what a plan is computed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from sicog.config import Config


class InputSpec(Config):
    """Something from outside that steps name as `${inputs.NAME}`.

    path: a file, a folder, or for a model also its id on the Hugging Face hub, looked up in the local cache.
    rows: how many rows it should hold, which a plan compares with how many it holds. get: where it is to be had.
    """

    path: str = Field(min_length=1)
    rows: int | None = Field(default=None, ge=0)
    get: str = ""


class JobConfig(Config):
    """What SLURM is asked for one step. options: of sbatch, without dashes. memory_gb: of a node; None: SLURM's own."""

    nodes: int = Field(default=1, ge=1)
    gpus: int = Field(default=0, ge=0)  # of each node, and so many processes of a training
    cpus: int = Field(default=8, ge=1)  # of each process
    memory_gb: int | None = Field(default=None, ge=1)
    time: str = "24:00:00"
    partition: str | None = None
    options: dict[str, str] = {}


class LauncherConfig(Config):
    """How steps are started; results do not depend on it, so a run may go on with another launcher.

    on: `local` runs step after step in this process; `torchrun` the same, but a training as `processes` processes of
        this machine (default: as many as it has GPUs); `slurm` submits every step as a job that waits for those it
        needs, and returns.
    jobs: with `local`, so many steps that do not wait for each other run at once, in processes of their own that share
        the cores; what they print is in `.steps/NAME.log` of the run.
    train, data: the jobs of trainings and of other steps; a step's own `job` overrides them key by key.
    array_tasks: of the array that samples, a task with a GPU of its own each.
    """

    on: Literal["local", "torchrun", "slurm"] = "local"
    processes: int | None = Field(default=None, ge=1)
    jobs: int = Field(default=1, ge=1)
    train: JobConfig = JobConfig(gpus=8)
    data: JobConfig = JobConfig()
    array_tasks: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _side_by_side_is_local(self) -> LauncherConfig:
        if self.jobs > 1 and self.on != "local":
            raise ValueError(f"jobs: {self.jobs} is for on: local; {self.on} shares the machine in its own way")
        return self

    def job(self, *, trains: bool, own: dict[str, Any]) -> JobConfig:
        """The job of a step. Raises pydantic's error for keys that are none."""
        return JobConfig.model_validate((self.train if trains else self.data).model_dump() | own)


class Assumed(Config):
    """What a plan is computed with where nothing is measured yet; see `sicog.runs.plan` for the formulas.

    model: a JSON of `SicogConfig` fields, for shapes while the models are not there.
    image: WIDTHxHEIGHT of an image, or `none`. prompt_tokens, answer_tokens: text of a row.
    tflops, utilisation: of a device in training, 10^12 dense bfloat16 FLOP/s and the share that is used.
    bandwidth, decode_share: of its memory in TB/s, and the share that decoding reaches.
    keep_share: of the rows that a threshold keeps.
    """

    model: Path | None = None
    image: str = "640x480"
    prompt_tokens: int = Field(default=40, ge=0)
    answer_tokens: int = Field(default=250, ge=1)
    tflops: float = Field(default=312.0, gt=0)
    utilisation: float = Field(default=0.45, gt=0, le=1)
    bandwidth: float = Field(default=2.0, gt=0)
    decode_share: float = Field(default=0.5, gt=0, le=1)
    keep_share: float = Field(default=0.5, gt=0, le=1)

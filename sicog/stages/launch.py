"""Where the shards of a data stage are worked on, and which GPU of this machine each worker process takes."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Literal

from pydantic import Field

from sicog.config import Config
from sicog.config.packages import missing_package_message

_GB_PER_CORE = 4


class LaunchConfig(Config):
    """Where the workers run: on this machine, or beyond it. The shards, and so the results, are the same everywhere."""

    on: Literal["local", "slurm", "ray"] = "local"
    """`local` is this machine (`workers` processes); `slurm` submits a job array and returns; `ray` runs on the cluster
    that this process is connected to, and waits. The last two need the extra `cluster` (datatrove), and input,
    checkpoint and output folder where all machines see them."""
    wait: bool = False
    """With slurm: return only when the folder is finished, for a script whose next line reads it; fail if it is not."""
    tasks: int = Field(default=8, ge=1)
    """Tasks of the array, which share the shards; with Ray the shards that run at once."""
    gpus: int = Field(default=1, ge=0)
    """GPUs of one task."""
    cpus: int = Field(default=8, ge=1)
    """CPU cores of one task."""
    memory_gb: int | None = Field(default=None, ge=1)
    """Memory in GB that one task has on its node, for all its cores together; null: 4 for each core."""
    time: str = "24:00:00"
    partition: str | None = None
    options: dict[str, str] = {}

    @property
    def task_memory_gb(self) -> int:
        """`memory_gb`, or what stands for null."""
        return self.memory_gb or _GB_PER_CORE * self.cpus

    def problems(self, processes: int = 1) -> list[str]:
        """datatrove hands the shards to other machines."""
        return [
            *super().problems(),
            *(missing_package_message("datatrove", f"launch.on {self.on}") if self.on != "local" else []),
        ]


def gpus() -> list[str]:
    """The GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them; torch is not asked.

    A value that the user has set is respected; else all that the driver lists.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []

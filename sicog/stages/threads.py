"""Share the cores of a machine among the processes of one piece of work.

Without this every process starts as many threads as there are cores: eight workers on 64 cores start 512, which wait
for each other.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "OMP_NUM_THREADS"  # torch, NumPy and tokenizers read it when they start


def cores() -> int:
    """The cores that this process may use: those of its SLURM task, else those that the system lets it run on."""
    of_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    n_here = len(os.sched_getaffinity(0))
    return min(int(of_task), n_here) if of_task.isdigit() and int(of_task) else n_here


def use_threads(threads: int) -> None:
    """Let this process and those that it starts compute with so many threads, unless OMP_NUM_THREADS says otherwise."""
    if os.environ.get(_VARIABLE):
        return
    os.environ[_VARIABLE] = str(max(1, threads))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(max(1, threads))


def share_cores(processes: int) -> None:
    """As `use_threads`, with an equal share of `cores()` for each of several processes."""
    if processes > 1:
        use_threads(cores() // processes)

"""Resolve the kind of data parallelism: plain, ZeRO or FSDP. Imports torch only when a function is called."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Literal

from sicog.model.precision import chosen_device
from sicog.stages.provenance import RUN
from sicog.stages.storage import read_json

Parallel = Literal["auto", "ddp", "zero2", "zero3", "fsdp"]
ZERO_STAGES = {"zero2": 2, "zero3": 3}


def resolve_parallel(parallel: Parallel, out_dir: Path, *, offload: bool = False) -> Parallel:
    """The kind of parallelism here. For `auto`, a run in `out_dir` continues with its first kind.

    Raises `ValueError` if this machine or this launch does not support it.
    """
    on_gpu = chosen_device() == "cuda"
    if parallel == "auto":
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        zero2 = several and on_gpu and _has_deepspeed()
        parallel = _parallel_of_run(out_dir) or ("zero2" if zero2 else "ddp")
    if offload and parallel == "ddp":
        raise ValueError("offload moves sharded states to the CPU. Set parallel=zero2, zero3 or fsdp")
    if parallel == "fsdp" and not on_gpu:
        raise ValueError("parallel fsdp needs CUDA devices. On a CPU use zero2 or zero3")
    if parallel in ZERO_STAGES and not _has_deepspeed():
        raise ValueError(f"parallel {parallel} needs deepspeed. Install sicog[train], or set parallel=ddp")
    if parallel != "ddp" and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"parallel {parallel} needs a launcher, also for one process: "
            f"torchrun --nproc-per-node=1 -m sicog train ..."
        )
    return parallel


def _parallel_of_run(run_dir: Path) -> Parallel | None:
    if not (run_dir / RUN).is_file():
        return None
    begun: Parallel | None = read_json(run_dir / RUN).get("identity", {}).get("parallel")
    return begun


def _has_deepspeed() -> bool:
    return importlib.util.find_spec("deepspeed") is not None

"""`sicog reshard`: convert sharded states, so that another number of processes can resume a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sicog.console import say
from sicog.stages.provenance import RUN
from sicog.stages.storage import is_finished, read_json
from sicog.training import run_checkpoints
from sicog.training.config import TrainConfig
from sicog.training.parallel import sharding
from sicog.training.updates import check_divides

_UNIVERSAL_TAG = "latest_universal"  # DeepSpeed's file with the name of the folder to load
_OF_ONE_PROCESS = ("global_step*", "latest", "rng_state*", run_checkpoints.MARKER)


def reshard(run_dir: Path, processes: int) -> Path:
    """Turn the newest complete checkpoint of a run into a universal one, and return it.

    The order of rows and the optimizer states are kept. Sums over ranks are rounded in another order, so losses agree
    but are not bit-equal. The old checkpoint is removed when the new one is complete. Raises `ValueError` if there is
    no checkpoint, it needs no resharding, or the batch does not divide by the number of processes.
    """
    if not (run_dir / RUN).is_file():
        raise ValueError(f"{run_dir} has no {RUN}. Give the folder of a training run")
    if is_finished(run_dir):
        raise ValueError(f"{run_dir} is finished. There is nothing to resume")
    begun = TrainConfig.model_validate(read_json(run_dir / RUN)["config"])
    check_divides(begun.model_copy(update={"out_dir": run_dir}), processes)
    old = run_checkpoints.newest_complete(run_dir)
    if old is None:
        raise ValueError(f"{run_dir} has no complete checkpoint. Start the run with {processes} processes")
    shards = run_checkpoints.shards(old)
    if shards is None or run_checkpoints.is_universal(old):
        raise ValueError(f"{old} needs no resharding. Any number of processes can resume from it")
    new = old.with_name(old.name + run_checkpoints.UNIVERSAL)
    shutil.rmtree(new, ignore_errors=True)
    # Hard links if the disk supports them, because the weights are as large as all the rest.
    shutil.copytree(old, new, copy_function=_link, ignore=shutil.ignore_patterns(*_OF_ONE_PROCESS))
    tag = f"{shards.name}_universal"
    sharding.to_universal(shards, new / tag)
    (new / _UNIVERSAL_TAG).write_text(tag, encoding="utf-8")
    run_checkpoints.mark_complete(new, processes=processes)
    run_checkpoints.remove(old)
    say(f"{new.name}: {processes} processes can resume from it")
    return new


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

"""Run a data stage: rows in, records out, each drop with its reason, and a manifest that accounts for every row.

Rows are read in order and cut into shards, shards into blocks. The process is called with a block and returns one
outcome per row. A finished block is one complete line of the shard's journal, so a run that was killed at any moment
continues with the first block that is not there, and gives the same bytes as an undisturbed one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sicog.config import Config
from sicog.console import say_finished
from sicog.records import Record
from sicog.stages.config import StageOptions
from sicog.stages.journal import WORK
from sicog.stages.journal_progress import JournalProgress
from sicog.stages.provenance import describe_output, has_no_work, is_claimed, note_seconds, write_run_json
from sicog.stages.reader import Source
from sicog.stages.shard import Finish, Limit, Process, ShardTask
from sicog.stages.storage import file_lock, is_finished, write_json
from sicog.stages.workers import run_shards

STAGE = "stage.json"  # beside the journals: how many rows they will hold, for `sicog status`


@dataclass(frozen=True)
class Stage:
    """A data stage: the rows of `source`, what `process` makes of each, and the dataset `out_dir` that holds it.

    process: picklable when several workers or a cluster work on the stage; called with a block of rows, returns one
        outcome per row, in order: the records it became, `Dropped`, or `Failed`. It must not depend on earlier blocks.
    inputs: the files and folders that decide the output, by name; run.json holds their digests.
    outputs: for record types that go to a sub-folder of their own, e.g. `{PreferencePair: "pairs"}`.
    limits_failed: False where `process` itself stops at too many failed rows; the share is then of dropped ones alone.
    limited_reasons: where dropping is what the stage is for, the reasons that count against the share; None: all.
    status: what the progress bar says beside the rows, asked again and again from another thread.
    then: what follows when the folder is complete; with SLURM in the job that finishes it.
    """

    step: str
    out_dir: Path
    source: Source[Any]
    process: Process
    inputs: Mapping[str, Path]
    outputs: Mapping[type[Record], str] = field(default_factory=dict)
    limits_failed: bool = True
    limited_reasons: frozenset[str] | None = None
    status: Callable[[], str] = lambda: ""
    then: Callable[[], object] = lambda: None


def run_stage(stage: Stage, config: Config, options: StageOptions | None = None) -> Path:
    """Run the stage and return its `out_dir`.

    config: is recorded in run.json. A finished folder of the same config and inputs is returned as it is; one of
        another config is refused.
    options: how the stage is worked on; None: as the keys of `config` state (`StageOptions.of`).
    """
    options = options or StageOptions.of(config)
    rank, _ = options.share or (0, 1)
    _claim(stage, config, rank)
    if is_finished(stage.out_dir):
        if not rank:
            say_finished(stage.step, stage.out_dir)
        stage.then()
        return stage.out_dir
    if options.share is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{stage.step} was started by torchrun; start it as one process, with workers=N for several")
    task, finish = _plan(stage, options)
    if options.backend is not None:
        write_json(stage.out_dir / WORK / STAGE, {"rows": finish.n_rows})
        options.backend(task, finish, stage.then)
        return stage.out_dir
    _run_here(stage, options, task, finish)
    stage.then()
    return stage.out_dir


def _claim(stage: Stage, config: Config, rank: int) -> None:
    """Rank 0 writes run.json; the other ranks wait for it. What is not this stage's folder is refused."""
    if rank:
        claim = describe_output(step=stage.step, config=config, inputs=stage.inputs)
        _wait_for(lambda: is_claimed(stage.out_dir, claim) or not has_no_work(stage.out_dir))
    if not (rank and is_finished(stage.out_dir)):
        write_run_json(stage.out_dir, step=stage.step, config=config, inputs=stage.inputs)


def _plan(stage: Stage, options: StageOptions) -> tuple[ShardTask, Finish]:
    """What works on one shard, and what finishes the folder. A shard holds whole blocks."""
    block_size = options.block_size
    rows_per_shard = -(-options.rows_per_shard // block_size) * block_size
    n_rows, folders = len(stage.source), {t.__name__: name for t, name in stage.outputs.items()}
    n_shards = max(1, -(-n_rows // rows_per_shard))
    kinds = ("dropped", "failed") if stage.limits_failed else ("dropped",)
    limit = Limit(options.max_dropped_share, kinds, stage.limited_reasons)
    task = ShardTask(stage.step, stage.out_dir, stage.source, stage.process, folders, block_size, rows_per_shard, limit)
    return task, Finish(stage.step, stage.out_dir, n_shards, n_rows, ("", *folders.values()), limit)


def _run_here(stage: Stage, options: StageOptions, task: ShardTask, finish: Finish) -> None:
    """Work on the shards with processes of this machine; rank 0 then finishes the folder."""
    out_dir, (rank, n_ranks) = stage.out_dir, options.share or (0, 1)
    if rank:
        run_shards(task, range(rank, finish.n_shards, n_ranks), options.workers)
        _wait_for(lambda: is_finished(out_dir))
        return
    with file_lock(out_dir / WORK / "lock", out_dir):
        if is_finished(out_dir):  # the process that held the lock before has finished it
            return
        # Of a stage that resumes, the time of the earlier starts is not known.
        began, resumes = time.monotonic(), any((out_dir / WORK).glob("journal-*.jsonl"))
        write_json(out_dir / WORK / STAGE, {"rows": finish.n_rows})
        with JournalProgress(stage.step, out_dir / WORK, finish.n_rows, stage.status) as progress:
            run_shards(task, range(0, finish.n_shards, n_ranks), options.workers)
            _wait_for(lambda: progress.rows_done() == finish.n_rows)
        finish()
        if not resumes:
            note_seconds(out_dir, time.monotonic() - began)


def _wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what another process does; should that one end, the launcher ends this one too."""
    while not condition():
        time.sleep(0.1)

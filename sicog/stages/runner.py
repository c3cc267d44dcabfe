"""Run a data stage over shards: resume by block, drops with reasons, a manifest, several processes or machines.

Rows are read in order and cut into shards, shards into blocks. The process is called with a block and returns one
outcome per row. A finished block is one complete line of the shard's journal, so a run that was killed at any moment
continues with the first block that is not there, and gives the same bytes as an undisturbed one.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from sicog.config import Config
from sicog.console import say, say_finished
from sicog.records import Dropped, Failed, Record, RecordT
from sicog.stages.journal import WORK, Journal, write_rows
from sicog.stages.launch import LaunchConfig, gpus
from sicog.stages.progress import Progressing
from sicog.stages.provenance import described, digest_file, holds_nothing, is_claimed, note_seconds, write_run_json
from sicog.stages.storage import (
    MANIFEST,
    dump_record,
    locked,
    named,
    read_json,
    shard_name,
    shards,
    what_is_wrong,
    write_json,
)

RowT = TypeVar("RowT", bound=Record, covariant=True)
UNREADABLE = "unreadable_row"
STAGE = "stage.json"  # beside the journals: how many rows they will hold, for `sicog status`


@dataclass(frozen=True, slots=True)
class Line:
    """A record as the bytes that `dump_record` would give, for a stage that is too fast for typed records.

    folder: the sub-folder of `outputs` that it goes to.
    """

    data: bytes
    folder: str = ""


Outcome = Sequence[Record] | Sequence[Line] | Dropped | Failed
Process = Callable[[Sequence[Any]], Iterable[Outcome]]


class Source(Protocol[RowT]):
    """Rows in a fixed order, any range of which can be read. A row that cannot be read comes as `Dropped`."""

    def __len__(self) -> int: ...
    def read(self, start: int, stop: int) -> Iterator[RowT | Dropped]: ...


@dataclass
class FolderSource(Generic[RecordT]):
    """The records of one of our own datasets.

    step: when given, a row that cannot be read comes as `Dropped` of that step, with its file and line for an id;
        without it, it is an error.
    """

    folder: Path
    record_type: type[RecordT]
    step: str = ""

    def __len__(self) -> int:
        return sum(self.rows.values())

    @cached_property
    def rows(self) -> dict[str, int]:
        """The number of rows by the name of the shard."""
        paths = shards(self.folder)
        known = read_json(self.folder / MANIFEST).get("rows_per_shard", {})
        return {p.name: known[p.name] if p.name in known else sum(1 for _ in p.open("rb")) for p in paths}

    def read(self, start: int, stop: int) -> Iterator[RecordT | Dropped]:
        """Rows start..stop; only these are parsed."""
        first = 0
        for name, rows in self.rows.items():
            wanted = range(max(start, first), min(stop, first + rows))
            if wanted:
                yield from self._read_shard(self.folder / name, wanted.start - first, wanted.stop - first)
            first += rows

    def _read_shard(self, path: Path, start: int, stop: int) -> Iterator[RecordT | Dropped]:
        with path.open("rb") as file:
            number = 0
            for number, line in enumerate(islice(file, stop), 1):
                if number > start:
                    yield self._parse(line, f"{path}:{number}")
        for missing in range(max(start, number) + 1, stop + 1):
            yield self._unreadable(f"{path}:{missing}", "the file ends before it")

    def _parse(self, line: bytes, where: str) -> RecordT | Dropped:
        try:
            return self.record_type.model_validate_json(line)
        except ValueError as error:
            return self._unreadable(where, what_is_wrong(error))

    def _unreadable(self, where: str, reason: str) -> Dropped:
        if not self.step:
            raise ValueError(f"{where} is not {named(self.record_type)} ({reason})") from None
        detail = f"not {named(self.record_type)} ({reason})"
        return Dropped(id=where.removeprefix(f"{self.folder}/"), step=self.step, reason=UNREADABLE, detail=detail)


@dataclass(frozen=True)
class Limit:
    """Above `share` of all rows, dropped or failed (`kinds`) for one of `reasons` (None: any), a stage stops."""

    share: float | None  # None: no limit
    kinds: tuple[str, ...] = ("dropped", "failed")
    reasons: frozenset[str] | None = None

    def counted(self, found: Mapping[str, Counter[str]]) -> Counter[str]:
        """How many rows count against the share, by reason; found: reasons by kind."""
        every = sum((found[kind] for kind in self.kinds), Counter[str]())
        return Counter({r: n for r, n in every.items() if self.reasons is None or r in self.reasons})

    def is_exceeded(self, n_bad: int, n_rows: int) -> bool:
        """One row may always be bad."""
        return self.share is not None and n_bad > max(1.0, self.share * n_rows)


@dataclass
class ShardTask:
    """Task r writes shard r, whatever runs it."""

    step: str
    out_dir: Path
    source: Any
    process: Process
    outputs: dict[str, str]  # record type name -> sub-folder
    block_size: int
    rows_per_shard: int
    limit: Limit

    def __call__(self, rank: int) -> None:
        start = rank * self.rows_per_shard
        stop = min(start + self.rows_per_shard, len(self.source))
        journal = Journal(self.out_dir, rank, ("", *self.outputs.values()))
        if journal.path.is_file() and journal.rows() == stop - start:
            return  # without touching it: the process that finishes the stage may be about to remove it
        with locked(journal.path, self.out_dir):
            self._work_off(journal, start, stop)

    def _work_off(self, journal: Journal, start: int, stop: int) -> None:
        done = journal.resume()
        unusable = sum(map(self._unusable, done))
        with ExitStack() as stack:
            files = journal.opened(stack)
            n_read = start + len(done) * self.block_size
            for block in _blocks(self.source, n_read, stop, self.block_size):
                n_read += len(block)
                if len(block) < self.block_size:  # else it would be noted down as done without its missing rows
                    self._check_read(n_read, stop)
                entry, records = self._entry(block)
                files.append(entry, records)
                unusable += self._unusable(entry)
                self._check_share(unusable)
            self._check_read(n_read, stop)

    def _check_read(self, n_read: int, stop: int) -> None:
        if n_read < stop:
            raise ValueError(
                f"{self.step}: the input gave {n_read:,} rows where {stop:,} were counted: it has changed since the "
                f"step began. Put it back, or start the step again in another out_dir"
            )

    def _unusable(self, entry: dict[str, Any]) -> int:
        return self.limit.counted({k: Counter(row["reason"] for row in entry[k]) for k in self.limit.kinds}).total()

    def _entry(self, block: list[Any]) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
        """Process one block: its entry in the journal, and the lines of the kept records by output."""
        readable = [row for row in block if not isinstance(row, Dropped)]
        outcomes = list(self.process(readable)) if readable else []
        if len(outcomes) != len(readable):
            raise AssertionError(f"{self.step}: {len(readable)} rows went in, {len(outcomes)} outcomes came out")
        entry: dict[str, Any] = {"rows": len(block), "kept_rows": 0, "dropped": [], "failed": []}
        entry["dropped"] = [row.model_dump(mode="json") for row in block if isinstance(row, Dropped)]
        records: dict[str, list[bytes]] = defaultdict(list)
        for row, outcome in zip(readable, outcomes, strict=True):
            if isinstance(outcome, (Dropped, Failed)):
                entry["dropped" if isinstance(outcome, Dropped) else "failed"].append(outcome.model_dump(mode="json"))
                continue
            if not outcome:
                raise AssertionError(f"{self.step}: row {row.id} gave no record and no reason")
            entry["kept_rows"] += 1
            for record in outcome:
                if isinstance(record, Line):
                    records[record.folder].append(record.data)
                else:
                    records[self.outputs.get(type(record).__name__, "")].append(dump_record(record))
        return entry, records

    def _check_share(self, unusable: int) -> None:
        """Stop early when a shard alone has too many; its finished blocks stay, so that a larger share goes on."""
        if self.limit.is_exceeded(unusable, len(self.source)):
            ranks = [int(p.stem.split("-")[1]) for p in sorted((self.out_dir / WORK).glob("journal-*.jsonl"))]
            journals = [Journal(self.out_dir, rank, ()) for rank in ranks]
            found = {kind: write_rows(self.out_dir, kind, journals) for kind in ("dropped", "failed")}
            raise ValueError(_too_many(self.step, self.limit, found, len(self.source), self.out_dir))


def run_stage(
    *,
    step: str,
    out_dir: Path,
    source: Source[Any],
    process: Process,
    config: Config,
    inputs: Mapping[str, Path],
    outputs: Mapping[type[Record], str] | None = None,
    block_size: int = 64,
    rows_per_shard: int = 1024,
    workers: int = 1,
    max_dropped_share: float | None = 0.05,
    limits_failed: bool = True,
    limited_reasons: frozenset[str] | None = None,
    launch: LaunchConfig | None = None,
    share: tuple[int, int] | None = None,
    status: Callable[[], str] = lambda: "",
    then: Callable[[], object] = lambda: None,
) -> Path:
    """Run `process` over all rows of `source` and write the dataset `out_dir`; returns `out_dir`.

    process: picklable when workers > 1 or launched elsewhere; called with a block of rows, returns one outcome per
        row, in order: the records it became, `Dropped`, or `Failed`. It must not depend on earlier blocks.
    outputs: for record types that go to a sub-folder of their own, e.g. `{PreferencePair: "pairs"}`.
    max_dropped_share: above this share of dropped and failed rows the run stops with a `ValueError`; None: no limit.
    limits_failed: False where `process` itself stops at too many failed rows; the share is then of dropped ones alone.
    limited_reasons: where dropping is what the stage is for, the reasons that count against the share; None: all.
    launch: where the shards are worked on; with SLURM the folder is finished when its jobs are, not on return.
    share: (rank, ranks) where processes that were launched together all make this call: each works off every ranks-th
        shard, and all return when the dataset is complete. They meet in `out_dir` alone, which they all must see.
    status: what the progress bar says beside the rows, asked again and again from another thread.
    then: what follows when the folder is complete; with SLURM in the job that finishes it.

    A finished folder of the same config and inputs is returned as it is; one of another config is refused.
    """
    if rows_per_shard % block_size:
        rows_per_shard = -(-rows_per_shard // block_size) * block_size
    rank, n_ranks = share or (0, 1)
    if rank:
        claim = described(step=step, config=config, inputs=inputs)
        _wait_for(lambda: is_claimed(out_dir, claim) or not holds_nothing(out_dir))
    if not (rank and (out_dir / MANIFEST).is_file()):
        write_run_json(out_dir, step=step, config=config, inputs=inputs)
    if (out_dir / MANIFEST).is_file():
        if not rank:
            say_finished(step, out_dir)
        then()
        return out_dir
    if share is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{step} was started by torchrun; start it as one process, with workers=N for several")
    n_rows, folders = len(source), {t.__name__: name for t, name in (outputs or {}).items()}
    n_shards = max(1, -(-n_rows // rows_per_shard))
    limit = Limit(max_dropped_share, ("dropped", "failed") if limits_failed else ("dropped",), limited_reasons)
    task = ShardTask(step, out_dir, source, process, folders, block_size, rows_per_shard, limit)
    finish = Finish(step, out_dir, n_shards, n_rows, ("", *folders.values()), limit)
    if launch is not None and launch.on != "local":
        from sicog.stages.cluster import launch_shards

        write_json(out_dir / WORK / STAGE, {"rows": n_rows})
        launch_shards(launch, task, finish, then)
        return out_dir
    if rank:
        _execute(task, range(rank, n_shards, n_ranks), workers)
        _wait_for((out_dir / MANIFEST).is_file)
        then()
        return out_dir
    with locked(out_dir / WORK / "lock", out_dir):
        if not (out_dir / MANIFEST).is_file():  # else the process that held the lock before has finished it
            # Of a stage that resumes, the time of the earlier starts is not known.
            began, resumes = time.monotonic(), any((out_dir / WORK).glob("journal-*.jsonl"))
            write_json(out_dir / WORK / STAGE, {"rows": n_rows})
            with Progressing(step, out_dir / WORK, n_rows, status) as progress:
                _execute(task, range(0, n_shards, n_ranks), workers)
                _wait_for(lambda: progress.rows_done() == n_rows)
            finish()
            if not resumes:
                note_seconds(out_dir, time.monotonic() - began)
    then()
    return out_dir


def _wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what another process does; should that one end, the launcher ends this one too."""
    while not condition():
        time.sleep(0.1)


def _execute(task: ShardTask, numbers: range, workers: int) -> None:
    """One worker is this process, with what it has loaded; more are processes that take one shard after another."""
    if min(workers, len(numbers)) <= 1:
        for number in numbers:
            task(number)
        return
    # Not datatrove's local executor: it forks, which copies locks that this process's threads hold, and its pool waits
    # for ever for a worker that died, say for memory. Not fork, for the same reason.
    context, n_workers, available = get_context("spawn"), min(workers, len(numbers)), gpus()
    shares = context.Queue() if available else None
    if shares is not None:
        for number in range(n_workers):
            shares.put(available[number % len(available)])
    others = set(active_children())
    pool = ProcessPoolExecutor(n_workers, context, _start_worker, (task, shares))
    try:
        for future in as_completed([pool.submit(_run_shard, number) for number in numbers]):
            future.result()
    except KeyboardInterrupt:  # now, not when each has finished its shard: what is in the journals is kept
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    except BrokenProcessPool:
        raise RuntimeError(
            f"{task.step}: a worker process died (memory? see the messages above). "
            "What is finished is kept: start again, with fewer workers if it was memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_task: ShardTask | None = None  # a worker process's own, sent once: it may hold much


def _start_worker(task: ShardTask, shares: Any) -> None:
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; this one is ended by its parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if shares is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = shares.get()  # a GPU of its own, before anything here asks for one


def _end_with_parent() -> None:
    """A parent that was killed could not end its workers, and a shard that is still written refuses the next start."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_shard(rank: int) -> None:
    assert _task is not None
    _task(rank)


@dataclass
class Finish:
    """The end of a stage: journals to shards, dropped.jsonl, failed.jsonl and manifests, the main manifest last."""

    step: str
    out_dir: Path
    n_shards: int
    n_rows: int
    folders: tuple[str, ...]  # "" is out_dir itself
    limit: Limit

    def __call__(self) -> None:
        out_dir, counts = self.out_dir, Counter[str]()
        rows_per_shard: dict[str, dict[str, int]] = {folder: {} for folder in self.folders}
        journals = [Journal(out_dir, rank, self.folders) for rank in range(self.n_shards)]
        for rank, journal in enumerate(journals):
            for folder, n_records in journal.finish().items():
                rows_per_shard[folder][shard_name(rank)] = n_records
            for entry in journal.entries():
                counts.update(rows=entry["rows"], kept=entry["kept_rows"])
        dropped, failed = (write_rows(out_dir, kind, journals) for kind in ("dropped", "failed"))
        if not counts["rows"] == self.n_rows == counts["kept"] + dropped.total() + failed.total():
            raise AssertionError(
                f"{self.step}: {self.n_rows} rows in, {dict(counts)}, {dropped.total()} dropped, "
                f"{failed.total()} failed"
            )
        found = {"dropped": dropped, "failed": failed}
        if self.limit.is_exceeded(self.limit.counted(found).total(), self.n_rows):
            raise ValueError(_too_many(self.step, self.limit, found, self.n_rows, out_dir))
        for folder in reversed(self.folders):
            names = rows_per_shard[folder]
            write_json(
                out_dir / folder / MANIFEST,
                {
                    "step": self.step,
                    "rows_in": self.n_rows,
                    "rows_out": sum(names.values()),
                    "rows_kept": counts["kept"],
                    "dropped": dict(sorted(dropped.items())),
                    "failed": dict(sorted(failed.items())),
                    "rows_per_shard": names,
                    "files": {name: digest_file(out_dir / folder / name) for name in names},
                },
            )
        shutil.rmtree(out_dir / WORK)
        drops = f", {dropped.total()} dropped ({_listed(dropped)})" if dropped else ""
        fails = f", {failed.total()} failed ({_listed(failed)})" if failed else ""
        say(f"{self.step}: {self.n_rows} rows in, {counts['kept']} kept{drops}{fails}; written to {out_dir}")


def _too_many(step: str, limit: Limit, found: Mapping[str, Counter[str]], n_rows: int, out_dir: Path) -> str:
    reasons = limit.counted(found)
    return (
        f"{step}: {reasons.total()} of {n_rows} rows cannot be used ({_listed(reasons)}), more than {limit.share:.0%}. "
        f"They are listed in {out_dir / 'dropped.jsonl'} and failed.jsonl. Correct the data and choose another output "
        f"folder, or allow more with max_dropped_share and run again: what is finished is kept"
    )


def _blocks(source: Source[Any], start: int, stop: int, size: int) -> Iterator[list[Any]]:
    rows = source.read(start, stop) if start < stop else iter(())
    while block := list(islice(rows, size)):
        yield block


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in counter.most_common())

"""One shard of a stage: process its rows block by block, note each block in the journal, count what is dropped.

Blocks are noted when they are complete, so a shard that was stopped at any moment continues with the first block that
is missing. `Finish` turns the journals of all shards into the finished folder.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sicog.console import say
from sicog.records import Dropped, Failed, Record
from sicog.stages.journal import WORK, Journal, write_rows
from sicog.stages.provenance import digest_file
from sicog.stages.reader import Source
from sicog.stages.storage import MANIFEST, dump_record, file_lock, shard_name, write_json


@dataclass(frozen=True, slots=True)
class Line:
    """A record as the bytes that `dump_record` would give, for a stage that is too fast for typed records.

    folder: the sub-folder of `outputs` that it goes to.
    """

    data: bytes
    folder: str = ""


Outcome = Sequence[Record] | Sequence[Line] | Dropped | Failed
Process = Callable[[Sequence[Any]], Iterable[Outcome]]


@dataclass(frozen=True)
class Limit:
    """Above `share` of all rows, dropped or failed (`kinds`) for one of `reasons` (None: any), a stage stops."""

    share: float | None  # None: no limit
    kinds: tuple[str, ...] = ("dropped", "failed")
    reasons: frozenset[str] | None = None

    def count_rows(self, found: Mapping[str, Counter[str]]) -> Counter[str]:
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
        with file_lock(journal.path, self.out_dir):
            self._process_rows(journal, start, stop)

    def _process_rows(self, journal: Journal, start: int, stop: int) -> None:
        done = journal.resume()
        unusable = sum(map(self._unusable, done))
        with ExitStack() as stack:
            files = journal.open_files(stack)
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
        return self.limit.count_rows({k: Counter(row["reason"] for row in entry[k]) for k in self.limit.kinds}).total()

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
        if self.limit.is_exceeded(self.limit.count_rows(found).total(), self.n_rows):
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
        drops = f", {dropped.total()} dropped ({_format_counts(dropped)})" if dropped else ""
        fails = f", {failed.total()} failed ({_format_counts(failed)})" if failed else ""
        say(f"{self.step}: {self.n_rows} rows in, {counts['kept']} kept{drops}{fails}; written to {out_dir}")


def _too_many(step: str, limit: Limit, found: Mapping[str, Counter[str]], n_rows: int, out_dir: Path) -> str:
    reasons = limit.count_rows(found)
    return (
        f"{step}: {reasons.total()} of {n_rows} rows cannot be used ({_format_counts(reasons)}), more than "
        f"{limit.share:.0%}. They are listed in {out_dir / 'dropped.jsonl'} and failed.jsonl. Correct the data and "
        f"choose another output folder, or allow more with max_dropped_share and run again: what is finished is kept"
    )


def _blocks(source: Source[Any], start: int, stop: int, size: int) -> Iterator[list[Any]]:
    rows = source.read(start, stop) if start < stop else iter(())
    while block := list(islice(rows, size)):
        yield block


def _format_counts(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in counter.most_common())

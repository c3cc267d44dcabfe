"""Find near-duplicates and rows that overlap with benchmarks (`sicog overlap`): records of any step -> Dropped.

The output has a `Dropped` record for each row found, with id, reason (`near_duplicate` or `benchmark_overlap`) and
detail. The key `exclude` of `sicog select` and `sicog build` reads it. Rows with an unusable image are listed in its
dropped.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.curation.numbered_rows import ALL_TYPES, Rows, open_rows
from sicog.curation.overlap.examine import NEAR, OVERLAP, DecontaminateConfig, DeduplicateConfig, Examination, Verdicts
from sicog.data.image_folder import ImageFolder
from sicog.data.rows.cache import cache_folder
from sicog.records import Dropped, Record
from sicog.stages.config import StageOptions
from sicog.stages.provenance import RUN, write_run_json
from sicog.stages.runner import Stage, run_stage
from sicog.stages.storage import MANIFEST, is_finished, read_json, write_json

STEP = "overlap"
_EXAMINED = "rows_examined"


class OverlapConfig(Config):
    """Config of `sicog overlap`."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "max_dropped_share"})
    of_rows: ClassVar[tuple[str, ...]] = ("input",)
    input: Path
    """A dataset of examples, queries, candidate sets or scored sets, or a user's file of examples. Of a set the best
    candidate is compared, by score or else by vote; without either the first one."""
    out_dir: Path
    image_folder: Path | None = None
    """Folder of the images; needed when rows have images."""
    image_roots: tuple[Path, ...] = ()
    deduplicate: DeduplicateConfig | None = None
    """Find near-duplicates among the rows; null turns it off."""
    decontaminate: DecontaminateConfig | None = None
    """Find rows that overlap with benchmarks; null turns it off."""
    max_dropped_share: float = Field(default=0.05, ge=0, le=1)
    workers: int = Field(default=1, ge=1)
    cache_dir: Path | None = None

    @model_validator(mode="after")
    def _check_task(self) -> OverlapConfig:
        if self.deduplicate is None and self.decontaminate is None:
            raise ValueError("deduplicate and decontaminate are both missing. Set one or both ({} means the defaults)")
        return self

    def inputs(self) -> dict[str, Path]:
        """Return the paths of the rows and of the benchmarks, by name."""
        benchmarks = self.decontaminate.benchmarks if self.decontaminate else ()
        return {"input": self.input, **{f"benchmark.{b.name}": b.path for b in benchmarks}}


def overlap(config: OverlapConfig) -> Path:
    """Write the dataset of `Dropped` records `out_dir` and return it."""
    if (config.out_dir / RUN).is_file():  # refuse another run's folder before reading anything
        write_run_json(config.out_dir, step=STEP, config=config, inputs=config.inputs())
    if not (is_finished(config.out_dir) and _EXAMINED in read_json(config.out_dir / MANIFEST)):
        rows, verdicts = _examine_rows(config)
        run_stage(
            Stage(
                step=STEP,
                out_dir=config.out_dir,
                source=_Findings(rows, tuple(verdicts.excluded_rows())),
                process=_as_records,
                inputs=config.inputs(),
            ),
            config,
            StageOptions(block_size=256, rows_per_shard=8192, max_dropped_share=None),
        )
        manifest = read_json(config.out_dir / MANIFEST)
        counts = {reason: sum(1 for _, r, _ in verdicts.excluded_rows() if r == reason) for reason in (NEAR, OVERLAP)}
        more = {_EXAMINED: len(rows) + rows.n_dropped, "found": counts}
        write_json(config.out_dir / MANIFEST, manifest | more)
    return config.out_dir


def _examine_rows(config: OverlapConfig) -> tuple[Rows, Verdicts]:
    cache = cache_folder(config.cache_dir)
    rows = open_rows(config.input, cache, ALL_TYPES)
    verdicts = Verdicts.none(len(rows))
    images = ImageFolder(config.image_folder, config.image_roots, cache=cache) if config.image_folder else None
    examine = Examination(images, config.deduplicate, config.decontaminate, None, cache, config.workers)
    examine([rows], verdicts, lambda row: next(iter(rows.read([row]))).id)
    verdicts.check_share(rows.n_dropped, config.max_dropped_share, STEP)
    return rows, verdicts


class _Finding(Record):
    """A row to write. The stage would not write a `Dropped`, so this is a type of its own."""

    drop: Dropped


@dataclass(frozen=True)
class _Findings:
    rows: Rows
    found: tuple[tuple[int, str, str], ...]

    def __len__(self) -> int:
        return len(self.found) + self.rows.n_dropped

    def read(self, start: int, stop: int) -> Iterator[_Finding | Dropped]:
        """Yield findings start..stop, then unreadable rows."""
        some = self.found[start:stop]
        records = self.rows.read([row for row, _, _ in some])
        for record, (_, reason, detail) in zip(records, some, strict=True):
            drop = Dropped(id=record.id, step=STEP, reason=reason, detail=detail)
            yield _Finding(id=record.id, drop=drop) if reason in (NEAR, OVERLAP) else drop
        if stop > len(self.found):
            unread = list(self.rows.dropped_rows())
            yield from unread[max(0, start - len(self.found)) : stop - len(self.found)]


def _as_records(block: Sequence[_Finding]) -> list[tuple[Dropped]]:
    return [(finding.drop,) for finding in block]

"""Build the pre-training set (stage 1.5) from kept captions, kept reasoning and further rows (`sicog build`).

shard-*.jsonl      the examples, in seeded order; dropped.jsonl: excluded rows with their reasons
provenance/        the origin of each row, in the same order
llava.json         the same examples in LLaVA format;  manifest.json: totals by source, task, style and reason
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
from pydantic import Field, model_validator

from sicog.config import Config
from sicog.console import say_finished
from sicog.curation.build.draw import Ids, MixedRows, draw_by_weight, draw_rows, taken_rows, weights_of
from sicog.curation.build.origin import Finish, MultiTurnConfig, Origin
from sicog.curation.numbered_rows import Rows, open_rows
from sicog.curation.overlap.examine import DecontaminateConfig, DeduplicateConfig, Examination, Verdicts
from sicog.curation.overlap.image_pass import Pictures
from sicog.data.amounts import MixedSource, WhenShort, amount_to_take, amounts, require_total
from sicog.data.image_folder import ImageFolder
from sicog.data.rows.cache import cache_folder
from sicog.formats import reads_back, write_llava
from sicog.records import Dropped, Example
from sicog.stages.config import StageOptions
from sicog.stages.provenance import RUN, write_run_json
from sicog.stages.runner import Stage, run_stage
from sicog.stages.storage import MANIFEST, is_finished, lines_of, read_json, read_records, shards, write_json

STEP = "build"
PROVENANCE, LLAVA = "provenance", "llava.json"
_TOTALS = "rows_by_source"


class BuildSource(MixedSource):
    """Rows to take from one source.

    Of the rows that remain after all drops, `take` chooses, then at most one of count, weight, share and at_most says
    how many are drawn.
    """

    added: ClassVar[frozenset[str]] = frozenset({"take"})
    name: str = Field(min_length=1)
    """Becomes the `source` of its rows."""
    path: Path
    """A dataset of examples, or a user's LLaVA or ShareGPT file or folder of files."""
    weight_by: str | None = None
    """A number in the rows' `extra`, such as `agreement`, the support of a row's claims: rows are drawn in proportion
    to it, the same number of them in all. A row at twice the mean is there twice; at half of it, every second such row
    is."""
    exclude: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """Its name."""
        return self.name

    def weighted_count(self, n: int) -> int:
        """How many rows `weight` makes of `n`: the nearest whole number."""
        return int((1.0 if self.weight is None else self.weight) * n + 0.5)


class BuildConfig(Config):
    """Config of the build: the sources, the filters, and the seed for sampling and order."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "max_dropped_share"})
    sources: tuple[BuildSource, ...] = Field(min_length=1)
    """The sources of the set."""
    out_dir: Path
    total: int | None = Field(default=None, ge=1)
    """Number of rows of the set; needed when sources give shares."""
    when_short: WhenShort = "error"
    """What to do when a source has fewer rows than its count or share: `error` stops, `take_all` takes all its rows.
    The other sources do not give more to fill the gap."""
    seed: int = 0
    image_folder: Path | None = None
    """Folder of the images. When given, every image is read once. Rows with a missing or broken image are dropped; the
    provenance of other rows records the image's digest. Deduplication and decontamination of images need it."""
    image_roots: tuple[Path, ...] = ()
    deduplicate: DeduplicateConfig | None = None
    """Drop near-duplicates; null turns it off."""
    decontaminate: DecontaminateConfig | None = None
    """Drop rows that overlap with benchmarks; null turns it off."""
    per_image: int | None = Field(default=None, ge=1)
    """Maximum number of rows with the same image."""
    multi_turn: MultiTurnConfig | None = None
    """Turn chains of description into conversations; null turns it off."""
    max_dropped_share: float = Field(default=0.05, ge=0, le=1)
    """The build stops when a larger share of rows is unreadable, or has an unreadable image."""
    llava_json: bool = True
    """Whether to write `llava.json` too."""
    rows_per_shard: int = Field(default=8192, ge=1)
    workers: int = Field(default=1, ge=1)
    cache_dir: Path | None = None

    @model_validator(mode="after")
    def _check_names(self) -> BuildConfig:
        if twice := [name for name, n in Counter(s.name for s in self.sources).items() if n > 1]:
            raise ValueError(f"the name {', '.join(twice)} is used twice in sources. Give each source its own name")
        return self

    @model_validator(mode="after")
    def _check_total(self) -> BuildConfig:
        require_total(self.sources, self.total)
        return self

    def inputs(self) -> dict[str, Path]:
        """Return the paths of sources, excluded rows and benchmarks, by name."""
        benchmarks = self.decontaminate.benchmarks if self.decontaminate else ()
        return {
            **{source.name: source.path for source in self.sources},
            **{f"{s.name}.exclude.{k}": path for s in self.sources for k, path in enumerate(s.exclude)},
            **{f"benchmark.{benchmark.name}": benchmark.path for benchmark in benchmarks},
        }


def build(config: BuildConfig) -> Path:
    """Write the shuffled dataset `out_dir` with provenance, LLaVA file and manifest. Returns `out_dir`."""
    if (config.out_dir / RUN).is_file():  # refuse another run's folder before reading anything
        write_run_json(config.out_dir, step=STEP, config=config, inputs=config.inputs())
    if _is_complete(config.out_dir):
        say_finished(STEP, config.out_dir)
    else:
        mixed, pictures = _mix_rows(config)
        run_stage(
            Stage(
                step=STEP,
                out_dir=config.out_dir,
                source=mixed,
                process=Finish(config.multi_turn, config.seed, pictures),
                inputs=config.inputs(),
                outputs={Origin: PROVENANCE},
            ),
            config,
            StageOptions.of(config, block_size=256, max_dropped_share=None),
        )
        totals = _totals(config, mixed)
        if config.llava_json:
            left_out: list[str] = []
            write_llava(config.out_dir / LLAVA, _llava_examples(config.out_dir, left_out))
            totals["not_in_llava_json"] = left_out
        write_json(config.out_dir / MANIFEST, read_json(config.out_dir / MANIFEST) | totals)
    return config.out_dir


def _is_complete(folder: Path) -> bool:
    return is_finished(folder) and _TOTALS in read_json(folder / MANIFEST)


def _mix_rows(config: BuildConfig) -> tuple[MixedRows, Pictures | None]:
    """Return the sampled and the excluded rows, and the images when they were read."""
    cache = cache_folder(config.cache_dir)
    names = tuple(source.name for source in config.sources)
    sources = tuple(open_rows(source.path, cache) for source in config.sources)
    ids = Ids.read(names, sources, config.seed)
    verdicts = Verdicts.none(len(ids.high))
    starts = np.cumsum([0, *(len(rows) for rows in sources)])
    for source, start, stop in zip(config.sources, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        for folder in source.exclude:
            _exclude(folder, ids, start, stop, verdicts)
    pictures = _examine(config, sources, names, verdicts, cache)
    verdicts.check_share(sum(rows.n_dropped for rows in sources), config.max_dropped_share, STEP)
    stays = verdicts.reason_of == 0
    usable = [np.flatnonzero(stays[a:b]) + a for a, b in zip(starts[:-1], starts[1:], strict=True)]
    by_source = [
        taken_rows(ids, rows, *amount_to_take(s, len(rows))) for s, rows in zip(config.sources, usable, strict=True)
    ]
    wanted = amounts(config.sources, [len(rows) for rows in by_source], config.total, config.when_short)
    parts: list[tuple[np.ndarray, int, np.ndarray]] = []
    for k, (rows, n) in enumerate(zip(by_source, wanted, strict=True)):
        if (name := config.sources[k].weight_by) is None:
            parts += draw_rows(ids, rows, n)
        elif len(rows):
            parts += draw_by_weight(ids, rows, weights_of(sources[k], (rows - starts[k]).tolist(), name), n)
    order = np.argsort(np.concatenate([np.zeros(0, np.uint64), *(keys for _, _, keys in parts)]), kind="stable")
    drawn = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _, _ in parts)])[order]
    repetitions = np.concatenate([np.zeros(0, np.uint16), *(np.full(len(r), k, np.uint16) for r, k, _ in parts)])
    mixed = MixedRows(names, sources, drawn, repetitions[order], ids.is_shared(), tuple(verdicts.excluded_rows()))
    mixed.check_ids()
    return mixed, pictures


def _exclude(folder: Path, ids: Ids, start: int, stop: int, verdicts: Verdicts) -> None:
    drops = list(read_records(folder, Dropped))
    for row, drop in zip(ids.positions(start, stop, [d.id for d in drops]).tolist(), drops, strict=True):
        if row >= 0:
            verdicts.drop(row, drop.reason, f"{drop.detail} ({folder.name})")


def _examine(
    config: BuildConfig, sources: tuple[Rows, ...], names: tuple[str, ...], verdicts: Verdicts, cache: Path
) -> Pictures | None:
    images = ImageFolder(config.image_folder, config.image_roots, cache=cache) if config.image_folder else None
    examination = Examination(images, config.deduplicate, config.decontaminate, config.per_image, cache, config.workers)
    if not examination.is_needed:
        return None
    starts = np.cumsum([0, *(len(rows) for rows in sources)])

    def name_of(row: int) -> str:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        row_id = next(iter(sources[number].read([row - int(starts[number])]))).id
        return row_id if len(names) == 1 else f"{row_id} in {names[number]}"

    pictures = examination(sources, verdicts, name_of)
    return pictures if images else None


def _totals(config: BuildConfig, mixed: MixedRows) -> dict[str, Any]:
    """Count rows by source, task and style, conversations, and rows per source, for the manifest."""
    by: dict[str, Counter[str]] = {key: Counter() for key in ("source", "task", "style")}
    conversations = 0
    for origin in _lines(shards(config.out_dir / PROVENANCE)):
        for key, counter in by.items():
            counter[str(origin[key] or "unknown")] += 1
        conversations += origin["multi_turn"]
    return {
        _TOTALS: {source.name: by["source"][source.name] for source in config.sources},
        "rows_by_task": dict(sorted(by["task"].items())),
        "rows_by_style": dict(sorted(by["style"].items())),
        "multi_turn_rows": conversations,
        "dropped_by_source": mixed.dropped_by_source(),
    }


def _lines(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from map(orjson.loads, lines_of(path))


def _llava_examples(folder: Path, left_out: list[str]) -> Iterator[Example]:
    """Yield the examples that LLaVA's format can represent without loss. Ids of the others go to `left_out`."""
    for example in read_records(folder, Example):
        if reads_back(example):
            yield example
        else:
            left_out.append(example.id)

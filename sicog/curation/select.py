"""Keep the most consistent candidate of each query, or drop the query (`sicog select`): ScoredSet -> Example.

Writes the kept examples, `dropped.jsonl` with reasons, and preference pairs under `pairs/`. The human turn of an
example is the prompt of the style that produced the chosen candidate; its answer, like both sides of a pair, is the
candidate's full text (D-C14, D-C22).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.curation.score import answer_key
from sicog.curation.self_consistency import choose, draw, draw_rejected, hashed
from sicog.pipeline import FolderSource, run_stage
from sicog.records import Dropped, Example, PreferencePair, Record, ScoredCandidate, ScoredSet, Turn
from sicog.storage import count_rows, read_json, read_records
from sicog.tasks import TASKS

By = Literal["score", "vote"]
PAIRS = "pairs"
STEP = "select"


class SelectConfig(Config):
    """Config of `sicog select`.

    by: `score` ranks candidates by their self-consistency score; `vote` by the share of equal answers (reasoning
        only), then by score. Ties go to the lowest index.
    threshold: keep a query when its chosen candidate reaches it, in `score` or `vote`. `threshold_file` reads it from
        the file that the sweep wrote. The original's cuts on `score` are 0.80, 0.85 and 0.90; at K candidates a score
        of t means a similarity of (K t - 1) / (K - 1) to the others, so with fewer candidates the same cut asks less.
    styles: only candidates of these styles may be chosen (all of them still count in the scores); null for all.
    choose: `random` is the control: as many rows as `keep_rows_of` holds (all when null), drawn by the seed, and in
        each any candidate that could be compared, drawn likewise. It makes no pairs.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"workers"})
    input: Path
    out_dir: Path
    by: By = "score"
    threshold: float | None = Field(default=None, ge=-1, le=1)
    threshold_file: Path | None = None
    styles: tuple[str, ...] | None = Field(default=None, min_length=1)
    choose: Literal["best", "random"] = "best"
    keep_rows_of: Path | None = None
    seed: int = 0
    block_size: int = Field(default=256, ge=1)
    rows_per_shard: int = Field(default=1024, ge=1)
    workers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_rule_for_keeping(self) -> SelectConfig:
        cuts = [self.threshold is not None, self.threshold_file is not None]
        if self.choose == "best" and (sum(cuts) != 1 or self.keep_rows_of):
            raise ValueError("choose: best needs either threshold or threshold_file, and no keep_rows_of")
        if self.choose == "random" and any(cuts):
            raise ValueError("choose: random takes no threshold; keep_rows_of says how many rows it keeps")
        return self


def select(config: SelectConfig) -> Path:
    """Select from all scored sets and write the dataset `out_dir` of `Example`; returns it."""
    given = {"scored": config.input, "threshold": config.threshold_file, "keep_rows_of": config.keep_rows_of}
    process: SelectBest | SelectRandom
    if config.choose == "random":
        process = SelectRandom(config.seed, config.styles, _cut_of_rows(config))
    else:
        process = SelectBest(config.by, read_threshold(config), config.styles, config.seed)
    return run_stage(
        step=STEP,
        out_dir=config.out_dir,
        source=FolderSource(config.input, ScoredSet),
        process=process,
        config=config,
        inputs={name: path for name, path in given.items() if path},
        outputs={PreferencePair: PAIRS},
        block_size=config.block_size,
        rows_per_shard=config.rows_per_shard,
        workers=config.workers,
        max_dropped_share=None,  # dropping is what a threshold is for
    )


@dataclass(frozen=True)
class Threshold:
    """A cut, and what it was found for (None: it holds for anything)."""

    value: float
    task: str | None = None
    encoder: str | None = None

    def check(self, row: ScoredSet, by: By) -> None:
        """Raises `ValueError` when the cut was found on another task, or for scores of another encoder."""
        if self.task and row.query.task != self.task:
            raise ValueError(f"row {row.id} is of task {row.query.task}, but the threshold was found for {self.task}")
        if by == "score" and self.encoder and row.encoder != self.encoder:
            raise ValueError(
                f"row {row.id} was scored by {row.encoder}, but the threshold was found for {self.encoder}"
            )


def read_threshold(config: SelectConfig) -> Threshold:
    """The threshold of the config, or of the file that the sweep wrote, which must be for the same `by`."""
    if config.threshold is not None:
        return Threshold(config.threshold)
    assert config.threshold_file is not None
    found = read_json(config.threshold_file)
    if not isinstance(found, dict) or not isinstance(found.get("threshold"), (int, float)):
        raise ValueError(f"threshold_file: {config.threshold_file} holds no number under 'threshold'")
    if found.get("by", config.by) != config.by:
        raise ValueError(
            f"threshold_file: {config.threshold_file} is for by: {found['by']}, the config has {config.by}"
        )
    return Threshold(float(found["threshold"]), found.get("task"), found.get("encoder"))


def rank(candidate: ScoredCandidate, by: By) -> tuple[float, ...]:
    """What candidates are ordered by; excluded ones come below all others."""
    if candidate.score is None:
        return (-2.0,)
    return (candidate.score,) if by == "score" else (candidate.vote or 0.0, candidate.score)


def chosen_index(row: ScoredSet, by: By, styles: Sequence[str] | None = None) -> int | None:
    """The position of the best candidate that may be chosen, or None when there is none."""
    if by == "vote" and not TASKS[row.query.task].votes:
        raise ValueError(f"row {row.id}: by: vote needs short answers, {row.query.task} has none; use by: score")
    return choose([rank(c, by) for c in row.candidates], [_eligible(c, styles) for c in row.candidates])


def _eligible(candidate: ScoredCandidate, styles: Sequence[str] | None) -> bool:
    return candidate.score is not None and (styles is None or candidate.candidate.style in styles)


@dataclass(frozen=True)
class SelectBest:
    """The process of the stage: the best candidate if it reaches the threshold, and a pair with a low one."""

    by: By
    threshold: Threshold
    styles: tuple[str, ...] | None
    seed: int

    def __call__(self, block: Sequence[ScoredSet]) -> list[Sequence[Record] | Dropped]:
        return [self._one(row) for row in block]

    def _one(self, row: ScoredSet) -> Sequence[Record] | Dropped:
        self.threshold.check(row, self.by)
        chosen = chosen_index(row, self.by, self.styles)
        if chosen is None:
            return _nothing_to_choose(row, self.styles)
        value = rank(row.candidates[chosen], self.by)[0]
        if value < self.threshold.value:
            detail = f"{self.by} {value:.6g} < {self.threshold.value:.6g}"
            return Dropped(id=row.id, step=STEP, reason="low_consistency", detail=detail)
        pair = preference_pair(row, chosen, self.by, self.seed)
        return (to_example(row, chosen), pair) if pair else (to_example(row, chosen),)


@dataclass(frozen=True)
class SelectRandom:
    """The control: rows whose hash is at most `last` (None: all), and in each a candidate at random."""

    seed: int
    styles: tuple[str, ...] | None
    last: int | None

    def __call__(self, block: Sequence[ScoredSet]) -> list[Sequence[Record] | Dropped]:
        return [self._one(row) for row in block]

    def _one(self, row: ScoredSet) -> Sequence[Record] | Dropped:
        eligible = [i for i, c in enumerate(row.candidates) if _eligible(c, self.styles)]
        if not eligible:
            return _nothing_to_choose(row, self.styles)
        if self.last is not None and _row_hash(row.id, self.seed) > self.last:
            return Dropped(id=row.id, step=STEP, reason="not_drawn", detail="random control")
        return (to_example(row, eligible[draw(len(eligible), self.seed, "candidate", row.id)]),)


def _row_hash(row_id: str, seed: int) -> int:
    return hashed(seed, "row", row_id)


def _cut_of_rows(config: SelectConfig) -> int | None:
    """The hash up to which the control keeps rows, so that it keeps as many as `keep_rows_of` holds."""
    if config.keep_rows_of is None:
        return None
    wanted = count_rows(config.keep_rows_of)
    rows = (
        _row_hash(row.id, config.seed)
        for row in read_records(config.input, ScoredSet)
        if any(_eligible(c, config.styles) for c in row.candidates)
    )
    smallest = heapq.nsmallest(wanted, rows)
    if len(smallest) < wanted:
        raise ValueError(
            f"keep_rows_of: {config.keep_rows_of} holds {wanted} rows, but only {len(smallest)} of {config.input} have "
            f"a candidate to choose"
        )
    return smallest[-1] if smallest else -1


def to_example(row: ScoredSet, chosen: int) -> Example:
    """The training example of a chosen candidate. `extra`: style, score, vote and index of it, and the query's own.

    A key of the query that bears one of these names is kept as `query.NAME`.
    """
    picked = row.candidates[chosen]
    candidate = picked.candidate
    marks: dict[str, Any] = {
        "style": candidate.style,
        "score": picked.score,
        "vote": picked.vote,
        "index": candidate.index,
    }
    given = {f"query.{key}" if key in marks else key: value for key, value in row.query.extra.items()}
    return Example(
        id=row.id,
        images=row.query.images,
        turns=(
            Turn(role="user", text=candidate.prompt, images_at=(0,) * len(row.query.images)),
            Turn(role="assistant", text=candidate.text),
        ),
        source=row.query.task,
        extra=given | marks,
    )


def preference_pair(row: ScoredSet, chosen: int, by: By, seed: int) -> PreferencePair | None:
    """The chosen candidate against one of the lower half, or None when no lower one differs in text and answer."""
    comparable = [i for i, c in enumerate(row.candidates) if c.score is not None]
    best = row.candidates[chosen]
    rejected = draw_rejected(
        [rank(row.candidates[i], by) for i in comparable],
        comparable.index(chosen),
        allowed=[_differs(row, row.candidates[i], best) for i in comparable],
        seed=seed,
        key=row.id,
    )
    if rejected is None:
        return None
    other = row.candidates[comparable[rejected]]
    assert best.score is not None and other.score is not None
    return PreferencePair(
        id=row.id,
        images=row.query.images,
        prompt=(Turn(role="user", text=best.candidate.prompt, images_at=(0,) * len(row.query.images)),),
        chosen=best.candidate.text,
        rejected=other.candidate.text,
        chosen_score=best.score,
        rejected_score=other.score,
    )


def _differs(row: ScoredSet, one: ScoredCandidate, other: ScoredCandidate) -> bool:
    """Not the same text and, where answers are short, not the same answer (D-C15)."""
    if one.candidate.text == other.candidate.text or one.compared is None or other.compared is None:
        return False
    return not TASKS[row.query.task].votes or answer_key(one.compared) != answer_key(other.compared)


def _nothing_to_choose(row: ScoredSet, styles: Sequence[str] | None) -> Dropped:
    detail = f"no candidate of style {', '.join(styles)} can be chosen" if styles else "no candidate can be chosen"
    return Dropped(id=row.id, step=STEP, reason="no_candidate", detail=detail)

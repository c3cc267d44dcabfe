"""Make preference pairs for DPO from answers to clean and to corrupted images, joined by id (`sicog pair`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from sicog.answers import final_answer
from sicog.chains import ChainError
from sicog.curation.score.score import Paths
from sicog.curation.score.self_consistency import draw_integer
from sicog.curation.words import folded_text
from sicog.records import Candidate, CandidateSet, Dropped, PreferencePair, Turn
from sicog.stages.candidates import RunsSource, UnreadableRowError, find_runs
from sicog.stages.config import StageConfig
from sicog.stages.reader import UNREADABLE
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Outcome
from sicog.tasks import TASKS

STEP = "pair"


class PairConfig(StageConfig):
    """Config of `sicog pair`.

    For each row, one answer is sampled from `chosen`, to a prompt that both sides have. A different answer to the same
    prompt is sampled from `rejected`; for reasoning, its final answer must differ too. Unreadable rows are dropped.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "max_dropped_share"})
    chosen: Paths = Field(min_length=1)
    """Folders of candidate sets (or globs), sampled from the images as they are."""
    rejected: Paths = Field(min_length=1)
    """The same, sampled with `corruptions`."""
    out_dir: Path
    seed: int = 0


def pair(config: PairConfig) -> Path:
    """Write the dataset `out_dir` of `PreferencePair`; returns it. Rows without a pair are dropped with a reason."""
    clean, corrupted = find_runs(config.chosen), find_runs(config.rejected)
    folders = {
        f"{name}-{i}": f for name, all_ in (("chosen", clean), ("rejected", corrupted)) for i, f in enumerate(all_)
    }
    return run_stage(
        Stage(
            step=STEP,
            out_dir=config.out_dir,
            source=RunsSource(clean, step=STEP),
            process=PairSets(RunsSource(corrupted, step=STEP), config.seed),
            inputs=folders,
            limited_reasons=frozenset({UNREADABLE}),
        ),
        config,
    )


@dataclass(frozen=True)
class PairSets:
    """Process of the stage."""

    corrupted: RunsSource
    seed: int

    def __call__(self, block: Sequence[CandidateSet]) -> list[Outcome]:
        return [self._one(row) for row in block]

    def _one(self, row: CandidateSet) -> Outcome:
        try:
            other = self.corrupted.find(row.id)
        except UnreadableRowError as error:
            return Dropped(id=row.id, step=STEP, reason=UNREADABLE, detail=str(error))
        if other is None:
            return Dropped(id=row.id, step=STEP, reason="not_in_rejected", detail="no answer to a corrupted image")
        if (row.query.task, row.query.images, row.query.question) != (
            other.query.task,
            other.query.images,
            other.query.question,
        ):
            raise ValueError(
                f"row {row.id}: chosen and rejected have different queries. Sample both from the same input"
            )
        usable, rejected = list(_usable_answers(row)), list(_usable_answers(other))
        for reason, found in (("no_chosen", usable), ("no_rejected", rejected)):
            if not found:
                return Dropped(id=row.id, step=STEP, reason=reason, detail="every answer is cut or does not parse")
        asked = {candidate.prompt for candidate, _ in rejected}
        meeting = [(candidate, answer) for candidate, answer in usable if candidate.prompt in asked]
        if not meeting:
            detail = f"the prompts of chosen ({_styles(usable)}) and rejected ({_styles(rejected)}) never meet"
            return Dropped(id=row.id, step=STEP, reason="other_prompts", detail=detail)
        chosen, answer = meeting[draw_integer(len(meeting), self.seed, "chosen", row.id)]
        others = [c for c, a in rejected if c.prompt == chosen.prompt and c.text != chosen.text and a != answer]
        if not others:
            detail = "every rejected answer to the same prompt says the same as the chosen one"
            return Dropped(id=row.id, step=STEP, reason="same_answer", detail=detail)
        return (_pair(row, chosen, others[draw_integer(len(others), self.seed, "rejected", row.id)]),)


def _styles(candidates: Sequence[tuple[Candidate, str]]) -> str:
    return ", ".join(sorted({candidate.style for candidate, _ in candidates}))


def _usable_answers(row: CandidateSet) -> Iterator[tuple[Candidate, str]]:
    """Yield complete candidates that parse in their style, each with its answer."""
    task = TASKS[row.query.task]
    for candidate in row.candidates:
        if candidate.finish_reason == "length":
            continue
        try:
            compared = task.compared(candidate.text, candidate.style)
        except ChainError:
            continue
        yield candidate, final_answer(compared, row.query.question) if task.votes else folded_text(compared)


def _pair(row: CandidateSet, chosen: Candidate, rejected: Candidate) -> PreferencePair:
    images = row.query.images
    return PreferencePair(
        id=row.id,
        images=images,
        prompt=(Turn(role="user", text=chosen.prompt, images_at=(0,) * len(images)),),
        chosen=chosen.text,  # both sides are full texts, never an extracted answer
        rejected=rejected.text,
    )

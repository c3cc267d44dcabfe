"""Score the candidates of each query by self-consistency (`sicog score`): CandidateSet -> ScoredSet or Dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from sicog.candidates import RunsSource, find_runs
from sicog.chains import ChainError
from sicog.config import Config
from sicog.curation.embedder import Embedder, EncoderConfig
from sicog.curation.self_consistency import self_consistency, votes
from sicog.pipeline import FolderSource, run_stage
from sicog.provenance import digest_path
from sicog.records import Candidate, CandidateSet, Dropped, ScoredCandidate, ScoredSet
from sicog.tasks import TASKS, normalise_answer

FEWEST = 2  # agreement needs two candidates that can be compared

Paths = Annotated[tuple[Path, ...], BeforeValidator(lambda v: (v,) if isinstance(v, (str, Path)) else v)]


class ScoreConfig(Config):
    """Config of `sicog score`.

    input: a folder of candidate sets, or several folders or globs of them, which are grouped by id.
    checkpoint: when given, a candidate that another checkpoint wrote is an error.
    include_self: whether a candidate's similarity to itself counts in its score, as in the original. Without it a
        threshold means the same at any number of candidates.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"workers"})
    input: Paths = Field(min_length=1)
    out_dir: Path
    encoder: EncoderConfig
    include_self: bool = True
    checkpoint: Path | None = None
    block_size: int = Field(default=64, ge=1)
    rows_per_shard: int = Field(default=1024, ge=1)
    workers: int = Field(default=1, ge=1)


def score(config: ScoreConfig) -> Path:
    """Score all sets and write the dataset `out_dir` of `ScoredSet`; returns it."""
    folders = find_runs(config.input)
    source = FolderSource(folders[0], CandidateSet) if len(folders) == 1 else RunsSource(folders)
    embedder = Embedder(config.encoder)
    inputs = {f"candidates-{i}": folder for i, folder in enumerate(folders)} | {"encoder": embedder.folder}
    if config.checkpoint:
        inputs["checkpoint"] = config.checkpoint
    return run_stage(
        step="score",
        out_dir=config.out_dir,
        source=source,
        process=ScoreSets(embedder, config.include_self, digest_path(config.checkpoint) if config.checkpoint else None),
        config=config,
        inputs=inputs,
        block_size=config.block_size,
        rows_per_shard=config.rows_per_shard,
        workers=config.workers,
        max_dropped_share=None,  # drops here are the model's doing, not damaged data
    )


@dataclass(frozen=True)
class ScoreSets:
    """The process of the stage: all texts of a block are embedded together, each set is scored on its own."""

    embedder: Embedder
    include_self: bool = True
    checkpoint: str | None = None

    def __call__(self, block: Sequence[CandidateSet]) -> list[tuple[ScoredSet, ...] | Dropped]:
        compared = [tuple(self._compared(row, c) for c in row.candidates) for row in block]
        scorable = [i for i, row in enumerate(compared) if sum(c.compared is not None for c in row) >= FEWEST]
        texts = [[_key(block[i], c) for c in compared[i] if c.compared is not None] for i in scorable]
        embeddings_ND = self.embedder.embed([text for row in texts for text in row])
        scores = iter(self_consistency(embeddings_ND, [len(row) for row in texts], include_self=self.include_self))
        outcomes: list[tuple[ScoredSet, ...] | Dropped] = [_too_few(r, c) for r, c in zip(block, compared, strict=True)]
        for i, row_texts in zip(scorable, texts, strict=True):
            row_scores = [float(next(scores)) for _ in row_texts]
            row_votes = votes(row_texts) if TASKS[block[i].query.task].votes else [None] * len(row_texts)
            marks = iter(zip(row_scores, row_votes, strict=True))
            outcomes[i] = (self._scored(block[i], compared[i], marks),)
        return outcomes

    def _scored(
        self, row: CandidateSet, compared: Sequence[ScoredCandidate], marks: Iterator[tuple[float, float | None]]
    ) -> ScoredSet:
        candidates = []
        for candidate in compared:
            if candidate.compared is not None:
                score, vote = next(marks)
                candidate = candidate.model_copy(update={"score": score, "vote": vote})
            candidates.append(candidate)
        encoder = self.embedder.description + ("" if self.include_self else ", self left out")
        return ScoredSet(id=row.id, query=row.query, candidates=tuple(candidates), encoder=encoder)

    def _compared(self, row: CandidateSet, candidate: Candidate) -> ScoredCandidate:
        """The candidate with the text to compare, or with the reason why it cannot be chosen."""
        if self.checkpoint and candidate.checkpoint != self.checkpoint:
            raise ValueError(
                f"row {row.id}: candidate {candidate.index} was written by checkpoint {candidate.checkpoint[:12]}, not "
                f"by {self.checkpoint[:12]}, the one given as `checkpoint`"
            )
        task = TASKS[row.query.task]
        if candidate.style not in task.styles:
            raise ValueError(f"row {row.id}: {candidate.style!r} is no style of {task.name} ({', '.join(task.styles)})")
        if candidate.finish_reason == "length":
            return ScoredCandidate(candidate=candidate, compared=None, excluded="cut")
        try:
            text = task.compared(candidate.text, candidate.style)
        except ChainError:
            return ScoredCandidate(candidate=candidate, compared=None, excluded="unparsed")
        return ScoredCandidate(candidate=candidate, compared=text)


def answer_key(answer: str) -> str:
    """A short answer as it is voted on and embedded: normalised, so that no boilerplate is compared (D-C18)."""
    return normalise_answer(answer) or answer.strip().lower()


def _key(row: CandidateSet, candidate: ScoredCandidate) -> str:
    assert candidate.compared is not None
    return answer_key(candidate.compared) if TASKS[row.query.task].votes else candidate.compared


def _too_few(row: CandidateSet, compared: Sequence[ScoredCandidate]) -> Dropped:
    excluded = [c.excluded for c in compared if c.excluded]
    reasons = ", ".join(f"{excluded.count(reason)} {reason}" for reason in sorted(set(excluded)))
    detail = f"{len(compared) - len(excluded)} of {len(compared)} can be compared"
    if reasons:
        detail += f" ({reasons})"
    return Dropped(id=row.id, step="score", reason="too_few_candidates", detail=detail)

"""Score the candidates of each query by self-consistency (`sicog score`): CandidateSet -> ScoredSet or Dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from sicog.candidates import RunsSource, find_runs
from sicog.chains import ChainError
from sicog.config import Config
from sicog.curation.encoders import EncoderConfig
from sicog.curation.self_consistency import self_consistency, votes
from sicog.curation.vector_cache import Embedding
from sicog.curation.vectors import encoder_files, when_embedded
from sicog.launch import LaunchConfig
from sicog.pipeline import FolderSource, Source, run_stage
from sicog.provenance import digest_path, write_run_json
from sicog.records import Candidate, CandidateSet, Dropped, ScoredCandidate, ScoredSet
from sicog.storage import MANIFEST
from sicog.tasks import TASKS, normalise_answer

FEWEST = 2  # agreement needs two candidates that can be compared

Paths = Annotated[tuple[Path, ...], BeforeValidator(lambda v: (v,) if isinstance(v, (str, Path)) else v)]


class ScoreConfig(Config):
    """Config of `sicog score`.

    input: a folder of candidate sets, or several folders or globs of them, which are grouped by id.
    checkpoint: when given, a candidate that another checkpoint wrote is an error.
    include_self: whether a candidate's similarity to itself counts in its score, as in the original. Without it a
        threshold means the same at any number of candidates.
    cache_dir: where vectors are kept for later runs; $SICOG_CACHE, else ~/.cache/sicog.
    workers: processes on this machine, each with a GPU of its own where there are GPUs. launch: past this machine; what
        is launched embeds the texts, and scoring follows in its last job.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "launch", "cache_dir"})
    input: Paths = Field(min_length=1)
    out_dir: Path
    encoder: EncoderConfig = EncoderConfig()
    include_self: bool = True
    checkpoint: Path | None = None
    cache_dir: Path | None = None
    block_size: int = Field(default=64, ge=1)
    rows_per_shard: int = Field(default=1024, ge=1)
    workers: int = Field(default=1, ge=1)
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _one_process_asks(self) -> ScoreConfig:
        if self.encoder.kind != "sentence-transformers" and self.launch.on != "local":
            raise ValueError(f"encoder.kind: {self.encoder.kind} embeds nothing here: leave launch out")
        return self


def score(config: ScoreConfig, then: Callable[[], object] = lambda: None) -> Path:
    """Score all sets and write the dataset `out_dir` of `ScoredSet`; returns it.

    then: what follows when it is complete; with SLURM in the job that finishes it.
    """
    folders = find_runs(config.input)
    inputs = {f"candidates-{i}": folder for i, folder in enumerate(folders)} | encoder_files(config.encoder)
    if config.checkpoint:
        inputs["checkpoint"] = config.checkpoint
    claim = partial(write_run_json, config.out_dir, step="score", config=config, inputs=inputs)
    if (config.out_dir / MANIFEST).is_file():
        claim()
        then()
        return config.out_dir
    scoring = Scoring(
        config,
        source=FolderSource(folders[0], CandidateSet) if len(folders) == 1 else RunsSource(folders),
        inputs=inputs,
        checkpoint=digest_path(config.checkpoint) if config.checkpoint else None,
        then=then,
    )
    when_embedded(
        config.encoder,
        out_dir=config.out_dir,
        cache_dir=config.cache_dir,
        claim=claim,
        scoring=scoring,
        workers=config.workers,
        launch=config.launch,
    )
    if config.launch.on == "slurm" and config.launch.wait and not (config.out_dir / MANIFEST).is_file():
        raise ValueError(f"{config.out_dir} is not finished though its job ended; run the same command again")
    return config.out_dir


@dataclass(frozen=True)
class Scoring:
    """Scores all sets with the vectors that it is given: what follows the embedding, here or in its last job."""

    config: ScoreConfig
    source: Source[CandidateSet]
    inputs: Mapping[str, Path]
    checkpoint: str | None
    then: Callable[[], object]

    def process(self, embedder: Embedding) -> ScoreSets:
        """What scores a block, with vectors of this embedder."""
        return ScoreSets(embedder, self.config.include_self, self.checkpoint)

    def ask(self, embedder: Embedding) -> None:
        """Let this embedder see every text that is to be scored, in the order of the rows."""
        process, rows = self.process(embedder), self.source.read(0, len(self.source))
        while block := list(islice(rows, self.config.block_size)):
            process([row for row in block if not isinstance(row, Dropped)])

    def __call__(self, embedder: Embedding) -> None:
        config = self.config
        run_stage(
            step="score",
            out_dir=config.out_dir,
            source=self.source,
            process=self.process(embedder),
            config=config,
            inputs=self.inputs,
            block_size=config.block_size,
            rows_per_shard=config.rows_per_shard,
            workers=config.workers,
            max_dropped_share=None,  # drops here are the model's doing, not damaged data
            then=self.then,
        )


@dataclass(frozen=True)
class ScoreSets:
    """The process of the stage: all texts of a block are embedded together, each set is scored on its own."""

    embedder: Embedding
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

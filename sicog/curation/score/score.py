"""Score the candidates of each query by self-consistency (`sicog score`): CandidateSet -> ScoredSet."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from sicog.console import say_finished
from sicog.curation.score.block import Scorer, ScoreSets
from sicog.curation.score.columns import columns_of
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.curation.vectors.prepare import encoder_files, spent, when_embedded
from sicog.curation.vectors.vector_cache import Embedding
from sicog.records import CandidateSet, Dropped
from sicog.stages.candidates import RunsSource, find_runs
from sicog.stages.config import StageConfig
from sicog.stages.launch import LaunchConfig
from sicog.stages.provenance import digest_path, write_run_json
from sicog.stages.reader import FolderSource, Source
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Process
from sicog.stages.storage import MANIFEST

Paths = Annotated[tuple[Path, ...], BeforeValidator(lambda v: (v,) if isinstance(v, (str, Path)) else v)]


class SetsConfig(StageConfig):
    """The keys of every step that scores candidate sets."""

    input: Paths = Field(min_length=1)
    """A folder of candidate sets, or several folders or globs of them, which are grouped by id."""
    out_dir: Path
    encoder: EncoderConfig = EncoderConfig()
    checkpoint: Paths = ()
    """The checkpoint that wrote the candidates, or all of them where several are pooled. When given, a candidate of
    another checkpoint is an error."""
    cache_dir: Path | None = None
    block_size: int = Field(default=64, ge=1)


class ScoreConfig(SetsConfig):
    """Config of `sicog score`. Rows that cannot be read are dropped by file and line."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "launch", "cache_dir", "max_dropped_share"})
    scorer: Scorer = "embedding"
    """`embedding` compares the last steps by the encoder, as in the paper; `answer` counts equal final answers
    (reasoning only), without an encoder; `both` does both and weighs each vote by its candidate's agreement."""
    launch: LaunchConfig = LaunchConfig()
    """Where the workers run; the launched jobs embed the texts, and the last of them scores."""

    @model_validator(mode="after")
    def _one_process_asks(self) -> ScoreConfig:
        if self.launch.on != "local" and self.scorer == "answer":
            raise ValueError("scorer: answer embeds nothing: leave launch out")
        if self.encoder.kind != "sentence-transformers" and self.launch.on != "local":
            raise ValueError(f"encoder.kind: {self.encoder.kind} embeds nothing here: leave launch out")
        return self


def score(config: ScoreConfig, then: Callable[[], object] = lambda: None) -> Path:
    """Score all sets and write the dataset `out_dir` of `ScoredSet`, and its columns; returns it.

    then: what follows when it is complete; with SLURM in the job that finishes it.
    """
    folders = find_runs(config.input)
    pooled = len(folders) > 1
    inputs = {f"candidates-{i}": folder for i, folder in enumerate(folders)}
    inputs |= encoder_files(config.encoder) if config.scorer != "answer" else {}
    inputs |= {"checkpoint" if i == 0 else f"checkpoint-{i}": path for i, path in enumerate(config.checkpoint)}
    claim = partial(write_run_json, config.out_dir, step="score", config=config, inputs=inputs)
    finish = partial(_with_columns, config.out_dir, then)
    if (config.out_dir / MANIFEST).is_file():
        claim()
        say_finished("score", config.out_dir)
        shutil.rmtree(spent(config.out_dir, config.launch), ignore_errors=True)  # of one that was killed as it ended
        finish()
        return config.out_dir
    scoring = Scoring(
        config,
        source=RunsSource(folders, step="score") if pooled else FolderSource(folders[0], CandidateSet, step="score"),
        inputs=inputs,
        checkpoints=frozenset(map(digest_path, config.checkpoint)),
        then=finish,
    )
    if config.scorer == "answer":
        scoring(None)
        return config.out_dir
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


def _with_columns(out_dir: Path, then: Callable[[], object]) -> None:
    columns_of(out_dir)
    then()


@dataclass(frozen=True)
class SetsStage(ABC):
    """What is done to all sets with the vectors that it is given; it follows the embedding, here or in its last job."""

    step: ClassVar[str]
    config: SetsConfig
    source: Source[CandidateSet]
    inputs: Mapping[str, Path]
    checkpoints: frozenset[str]
    then: Callable[[], object]

    @abstractmethod
    def process(self, embedder: Embedding | None) -> Process:
        """What works on a block, with vectors of this embedder."""

    def ask(self, embedder: Embedding) -> None:
        """Let this embedder see every text that is to have a vector, in the order of the rows."""
        process, rows = self.process(embedder), self.source.read(0, len(self.source))
        while block := list(islice(rows, self.config.block_size)):
            process([row for row in block if not isinstance(row, Dropped)])

    def __call__(self, embedder: Embedding | None) -> None:
        config = self.config
        run_stage(
            Stage(
                step=self.step,
                out_dir=config.out_dir,
                source=self.source,
                process=self.process(embedder),
                inputs=self.inputs,
                then=self.then,
            ),
            config,
        )


@dataclass(frozen=True)
class Scoring(SetsStage):
    """Scores all sets."""

    step: ClassVar[str] = "score"
    config: ScoreConfig

    def process(self, embedder: Embedding | None) -> ScoreSets:
        """What scores a block, with vectors of this embedder."""
        return ScoreSets(embedder, self.config.scorer, self.checkpoints)

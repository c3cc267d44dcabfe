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
from sicog.curation.vectors.prepare import encoder_files, score_when_embedded, scratch_folder
from sicog.curation.vectors.vector_cache import Embedding
from sicog.records import CandidateSet, Dropped
from sicog.stages.candidates import RunsSource, find_runs
from sicog.stages.config import StageConfig
from sicog.stages.launch import LaunchConfig
from sicog.stages.provenance import digest_path, write_run_json
from sicog.stages.reader import FolderSource, Source
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Process
from sicog.stages.storage import is_finished

Paths = Annotated[tuple[Path, ...], BeforeValidator(lambda v: (v,) if isinstance(v, (str, Path)) else v)]


class SetsConfig(StageConfig):
    """The keys of every step that scores candidate sets."""

    input: Paths = Field(min_length=1)
    """A folder of candidate sets, or several folders or globs of them, which are grouped by id."""
    out_dir: Path
    encoder: EncoderConfig = EncoderConfig()
    checkpoint: Paths = ()
    """Checkpoint that wrote the candidates, or all checkpoints when several are pooled. When given, a candidate of
    another checkpoint is an error."""
    cache_dir: Path | None = None
    block_size: int = Field(default=64, ge=1)


class ScoreConfig(SetsConfig):
    """Config of `sicog score`. Unreadable rows are dropped, with file and line."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "launch", "cache_dir", "max_dropped_share"})
    scorer: Scorer = "embedding"
    """`embedding`: compare the last steps with the encoder, as in the paper. `answer`: count equal final answers
    (reasoning only), without an encoder. `both`: do both; each vote is weighted by its candidate's agreement."""
    launch: LaunchConfig = LaunchConfig()
    """Where the workers run. The launched jobs embed the texts; the last job scores."""

    @property
    def takes_array(self) -> bool:
        """Jobs of an array embed texts; scoring itself takes one process."""
        return self.scorer != "answer" and self.encoder.kind == "sentence-transformers"

    @model_validator(mode="after")
    def _check_launch(self) -> ScoreConfig:
        if self.launch.on != "local" and self.scorer == "answer":
            raise ValueError("launch is not used with scorer: answer, which embeds no texts. Remove launch")
        if self.encoder.kind != "sentence-transformers" and self.launch.on != "local":
            raise ValueError(
                f"launch is not used with encoder.kind: {self.encoder.kind}, which embeds no texts here. Remove launch"
            )
        return self


def score(config: ScoreConfig, then: Callable[[], object] = lambda: None) -> Path:
    """Score all sets; write the dataset `out_dir` of `ScoredSet` and its columns. Returns it.

    then: called when the output is complete; with SLURM, in the job that completes it.
    """
    folders = find_runs(config.input)
    pooled = len(folders) > 1
    inputs = {f"candidates-{i}": folder for i, folder in enumerate(folders)}
    inputs |= encoder_files(config.encoder) if config.scorer != "answer" else {}
    inputs |= {"checkpoint" if i == 0 else f"checkpoint-{i}": path for i, path in enumerate(config.checkpoint)}
    claim = partial(write_run_json, config.out_dir, step="score", config=config, inputs=inputs)
    finish = partial(_with_columns, config.out_dir, then)
    if is_finished(config.out_dir):
        claim()
        say_finished("score", config.out_dir)
        shutil.rmtree(scratch_folder(config.out_dir, config.launch), ignore_errors=True)  # left by a killed process
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
    score_when_embedded(
        config.encoder,
        out_dir=config.out_dir,
        cache_dir=config.cache_dir,
        claim=claim,
        scoring=scoring,
        workers=config.workers,
        launch=config.launch,
    )
    if config.launch.on == "slurm" and config.launch.wait and not is_finished(config.out_dir):
        raise ValueError(f"{config.out_dir} is incomplete, but its job has ended. Run the same command again")
    return config.out_dir


def _with_columns(out_dir: Path, then: Callable[[], object]) -> None:
    columns_of(out_dir)
    then()


@dataclass(frozen=True)
class SetsStage(ABC):
    """A stage over all sets that uses their vectors. It runs after the embedding, here or in the last job."""

    step: ClassVar[str]
    config: SetsConfig
    source: Source[CandidateSet]
    inputs: Mapping[str, Path]
    checkpoints: frozenset[str]
    then: Callable[[], object]

    @abstractmethod
    def process(self, embedder: Embedding | None) -> Process:
        """Return the process of a block, with vectors of this embedder."""

    def ask(self, embedder: Embedding) -> None:
        """Pass every text that needs a vector to this embedder, in the order of the rows."""
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
    """Stage that scores all sets."""

    step: ClassVar[str] = "score"
    config: ScoreConfig

    def process(self, embedder: Embedding | None) -> ScoreSets:
        """Return the process that scores a block, with vectors of this embedder."""
        return ScoreSets(embedder, self.config.scorer, self.checkpoints)

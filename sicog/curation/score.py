"""Score the candidates of each query by self-consistency (`sicog score`): CandidateSet -> ScoredSet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from sicog.candidates import RunsSource, find_runs
from sicog.config import Config
from sicog.curation.columns import columns_of
from sicog.curation.embedder import Embedder, EncoderConfig
from sicog.curation.scoring import Scorer, ScoreSets
from sicog.pipeline import FolderSource, run_stage
from sicog.provenance import digest_path
from sicog.records import CandidateSet

Paths = Annotated[tuple[Path, ...], BeforeValidator(lambda v: (v,) if isinstance(v, (str, Path)) else v)]


class ScoreConfig(Config):
    """Config of `sicog score`.

    input: a folder of candidate sets, or several folders or globs of them, which are grouped by id.
    scorer: `embedding` compares the last steps by the encoder, as in the paper; `answer` counts equal final answers
        (reasoning only), without an encoder; `both` does both and weighs each vote by its candidate's agreement.
    checkpoint: when given (one, or all whose candidates are pooled), a candidate of another checkpoint is an error.
    max_dropped_share: rows that cannot be read are dropped by file and line; above this share the run stops.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"workers"})
    input: Paths = Field(min_length=1)
    out_dir: Path
    scorer: Scorer = "embedding"
    encoder: EncoderConfig | None = None
    checkpoint: Paths = ()
    max_dropped_share: float = Field(default=0.05, ge=0, le=1)
    block_size: int = Field(default=64, ge=1)
    rows_per_shard: int = Field(default=1024, ge=1)
    workers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _an_encoder_where_texts_are_embedded(self) -> ScoreConfig:
        if self.scorer != "answer" and self.encoder is None:
            raise ValueError(f"scorer: {self.scorer} needs an encoder (encoder.name)")
        return self


def score(config: ScoreConfig) -> Path:
    """Score all sets and write the dataset `out_dir` of `ScoredSet`, and its columns; returns it."""
    folders = find_runs(config.input)
    pooled = len(folders) > 1
    source = RunsSource(folders, step="score") if pooled else FolderSource(folders[0], CandidateSet, step="score")
    embedder = Embedder(config.encoder) if config.encoder and config.scorer != "answer" else None
    inputs = {f"candidates-{i}": folder for i, folder in enumerate(folders)}
    inputs |= {"encoder": embedder.folder} if embedder else {}
    inputs |= {"checkpoint" if i == 0 else f"checkpoint-{i}": path for i, path in enumerate(config.checkpoint)}
    run_stage(
        step="score",
        out_dir=config.out_dir,
        source=source,
        process=ScoreSets(embedder, config.scorer, frozenset(map(digest_path, config.checkpoint))),
        config=config,
        inputs=inputs,
        block_size=config.block_size,
        rows_per_shard=config.rows_per_shard,
        workers=config.workers,
        max_dropped_share=config.max_dropped_share,
    )
    columns_of(config.out_dir)
    return config.out_dir

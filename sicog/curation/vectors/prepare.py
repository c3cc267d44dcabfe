"""Embed every distinct text once, then score; the same for every kind of encoder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sicog.curation.vectors.embed import EmbedParts, PartsSource, StoredVectors, open_plan
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.curation.vectors.find_encoder import encoder_folder
from sicog.curation.vectors.local_encoder import LocalEncoder
from sicog.curation.vectors.served_encoder import ServedEncoder
from sicog.curation.vectors.vector_cache import Embedding, Encoder, VectorCache, shortened_text, unit_vectors
from sicog.curation.vectors.vector_files import FileVectors, require_vectors
from sicog.data.rows.cache import cache_folder
from sicog.stages.backends import backend_of
from sicog.stages.config import StageOptions
from sicog.stages.launch import LaunchConfig
from sicog.stages.provenance import RUN
from sicog.stages.runner import Stage, run_stage

EMBEDDING = ".embedding"  # in the output folder, until the output is complete
log = logging.getLogger(__name__)


class Scoring(Protocol):
    """A step that uses the vectors. It may run in another process than the one that created it."""

    def ask(self, embedder: Embedding) -> None:
        """Pass every text to this embedder."""

    def __call__(self, embedder: Embedding) -> None:
        """Score with vectors of this embedder."""


def encoder_files(config: EncoderConfig) -> dict[str, Path]:
    """Return the files that determine the vectors, as inputs of a run. Raises `ValueError` when they are missing."""
    if config.kind == "file":
        assert config.path is not None
        return {"vectors": config.path}
    return {} if config.kind == "endpoint" else {"encoder": encoder_folder(config.name, config.revision)}


def score_when_embedded(
    config: EncoderConfig,
    *,
    out_dir: Path,
    cache_dir: Path | None,
    claim: Callable[[], object],
    scoring: Scoring,
    workers: int = 1,
    launch: LaunchConfig | None = None,
) -> None:
    """Embed what the cache does not hold, then score: here, or with SLURM in the last job of the embedding.

    The embedding is a stage of its own, which continues where it was stopped.

    claim: makes `out_dir` this run's, or raises; called before anything is embedded.
    cache_dir: of the vectors that are kept for other runs; see `sicog.data.rows.cache.cache_folder`.
    """
    cache = cache_folder(cache_dir) / "vectors"
    if (out_dir / RUN).is_file():
        claim()
    if config.kind == "file":
        assert config.path is not None
        vectors = FileVectors(config.path, cache)
        require_vectors(vectors, scoring.ask)
        claim()
        scoring(vectors)
        return
    claim()
    with closing(_encoder(config, out_dir / EMBEDDING / "answers")) as encoder:
        own, work = VectorCache(cache / encoder.key), out_dir / EMBEDDING
        plan = open_plan(work / "plan", scoring.ask, own, out_dir)
        score = ScoreEmbedded(StoredVectors(plan, own, encoder.description), scoring, scratch_folder(out_dir, launch))
        if not plan.parts:
            score()
            return
        run_stage(
            Stage(
                step="embed",
                out_dir=work / "parts",
                source=PartsSource(plan),
                process=EmbedParts(plan, own, encoder),
                inputs={"plan": plan.folder / "plan.json"},
                then=score,
            ),
            config,
            StageOptions(
                block_size=1,
                rows_per_shard=1,
                workers=1 if config.kind == "endpoint" else workers,
                max_dropped_share=None,
                backend=backend_of(launch),
            ),
        )


def _encoder(config: EncoderConfig, answers: Path) -> Encoder:
    return ServedEncoder(config, answers) if config.kind == "endpoint" else LocalEncoder(config)


def scratch_folder(out_dir: Path, launch: LaunchConfig | None) -> Path:
    """Return the scratch folder, which is useless once `out_dir` is complete. Cluster logs are beside it."""
    logs_there = launch is not None and launch.on != "local"
    return out_dir / EMBEDDING / "plan" if logs_there else out_dir / EMBEDDING


def embedder_of(config: EncoderConfig, cache_dir: Path | None = None) -> Embedding:
    """Return an embedder for use outside of a run; it stores nothing except an endpoint's answers."""
    cache = cache_folder(cache_dir)
    if config.kind == "file":
        assert config.path is not None
        return FileVectors(config.path, cache / "vectors")
    return _DirectEmbedding(_encoder(config, cache / "answers"))


@dataclass(frozen=True)
class _DirectEmbedding:
    encoder: Encoder

    @property
    def description(self) -> str:
        """Return the description of the encoder."""
        return self.encoder.description

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, float32 [N, D], in the order of the texts; equal texts are encoded once."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        if not rows:
            return np.zeros((0, 0), dtype=np.float32)
        distinct = list(rows)
        vectors_UD = unit_vectors(
            self.encoder.encode(distinct).vectors, lambda i: f"the text {shortened_text(distinct[i])}"
        )
        return vectors_UD[[rows[text] for text in texts]]


@dataclass(frozen=True)
class ScoreEmbedded:
    """Last part of a run: report truncated texts, score, and remove the scratch folder."""

    vectors: StoredVectors
    scoring: Scoring
    spent: Path

    def __call__(self) -> None:
        if n_cut := self.vectors.n_cut():
            log.warning(
                "%d of %d texts exceed the limit of encoder %s: only their beginning is compared",
                n_cut,
                self.vectors.plan.n_distinct,
                self.vectors.description,
            )
        self.scoring(self.vectors)
        shutil.rmtree(self.spent)

"""Score, then select, in one config: what the wrappers of `quality_evaluation/` run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from sicog.config import Config
from sicog.curation.encoders import EncoderConfig
from sicog.curation.score import Paths, ScoreConfig, score
from sicog.curation.select import By, SelectConfig, select
from sicog.launch import LaunchConfig


class CurateConfig(Config):
    """Config of score and select; the keys mean what they mean there.

    out_dir: holds `scored/` and `selected/`. Another threshold needs a new `selected` name only; scores are kept.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "launch", "cache_dir"})
    input: Paths = Field(min_length=1)
    out_dir: Path
    encoder: EncoderConfig = EncoderConfig()
    include_self: bool = True
    checkpoint: Path | None = None
    cache_dir: Path | None = None
    by: By = "score"
    threshold: float | None = Field(default=None, ge=-1, le=1)
    threshold_file: Path | None = None
    styles: tuple[str, ...] | None = None
    seed: int = 0
    selected: str = Field(default="selected", pattern=r"^\w[\w.-]*$")
    workers: int = Field(default=1, ge=1)
    launch: LaunchConfig = LaunchConfig()

    def score_config(self) -> ScoreConfig:
        """The config of the first step."""
        return ScoreConfig(
            input=self.input,
            out_dir=self.out_dir / "scored",
            encoder=self.encoder,
            include_self=self.include_self,
            checkpoint=self.checkpoint,
            cache_dir=self.cache_dir,
            workers=self.workers,
            launch=self.launch,
        )

    def select_config(self) -> SelectConfig:
        """The config of the second step."""
        return SelectConfig(
            input=self.out_dir / "scored",
            out_dir=self.out_dir / self.selected,
            by=self.by,
            threshold=self.threshold,
            threshold_file=self.threshold_file,
            styles=self.styles,
            seed=self.seed,
            workers=self.workers,
        )


def curate(config: CurateConfig) -> Path:
    """Score the candidates and select from them; returns the folder of the kept examples.

    With SLURM both follow the embedding in its last job.
    """
    select_config = config.select_config()  # its mistakes are reported before hours of scoring
    score(config.score_config(), then=partial(select, select_config))
    return select_config.out_dir

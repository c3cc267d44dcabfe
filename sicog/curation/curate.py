"""Score, then select, in one config: what the wrappers of `quality_evaluation/` run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from sicog.config import Config, ConfigT, validate
from sicog.curation.score.block import Scorer
from sicog.curation.score.score import Paths, ScoreConfig, score
from sicog.curation.select.select import SelectConfig, select
from sicog.curation.select.threshold import PAPER_K, By
from sicog.curation.select.verdicts import Styles
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.stages.launch import LaunchConfig


class CurateConfig(Config):
    """Config of score and select in one; a key without a comment here means what it means there."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "launch", "cache_dir", "max_dropped_share"})
    input: Paths = Field(min_length=1)
    """A folder of candidate sets, or several folders or globs of them, which are grouped by id."""
    out_dir: Path
    """Folder to write; it holds `scored/` and `selected/`."""
    scorer: Scorer = "embedding"
    """`embedding`, `answer` or `both`; see `sicog score --help`."""
    encoder: EncoderConfig = EncoderConfig()
    checkpoint: Paths = ()
    """The checkpoint that wrote the candidates. When given, a candidate of another checkpoint is an error."""
    cache_dir: Path | None = None
    max_dropped_share: float = Field(default=0.05, ge=0, le=1)
    by: By = "score"
    threshold: float | None = Field(default=None, ge=-1, le=1)
    """Keep a row when its chosen candidate reaches it; see `sicog select --help`."""
    threshold_file: Path | None = None
    """Instead of `threshold`: read it from what the sweep wrote."""
    threshold_k: int = Field(default=PAPER_K, ge=2)
    min_candidates: int = Field(default=3, ge=2)
    exclude: tuple[Path, ...] = ()
    styles: Styles | None = None
    seed: int = 0
    selected: str = Field(default="selected", pattern=r"^\w[\w.-]*$")
    """Name of the folder of kept rows. Another threshold needs a new name only; scores are kept."""
    workers: int = Field(default=1, ge=1)
    launch: LaunchConfig = LaunchConfig()

    def score_config(self) -> ScoreConfig:
        """The config of the first step. Raises `ValueError` when it is none."""
        return self._part(ScoreConfig, input=self.input, out_dir=self.out_dir / "scored")

    def select_config(self) -> SelectConfig:
        """The config of the second step. Raises `ValueError` when it is none."""
        return self._part(SelectConfig, input=self.out_dir / "scored", out_dir=self.out_dir / self.selected)

    def _part(self, step: type[ConfigT], **folders: Any) -> ConfigT:
        given = {name: getattr(self, name) for name in type(self).model_fields if name in step.model_fields}
        return validate(step, {**given, **folders}, "curate")


def curate(config: CurateConfig) -> Path:
    """Score the candidates and select from them; returns the folder of the kept examples.

    With SLURM both follow the embedding in its last job.
    """
    if config.scorer != "both" and (config.by == "vote") != (config.scorer == "answer"):
        raise ValueError(f"scorer: {config.scorer} gives nothing to rank by: {config.by}; set both alike")
    score_config, select_config = config.score_config(), config.select_config()
    select_config.check()  # its mistakes are reported before hours of scoring
    score(score_config, then=partial(select, select_config))
    return select_config.out_dir

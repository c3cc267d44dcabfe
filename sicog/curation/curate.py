"""Score and select with one config; the wrappers of `quality_evaluation/` run it."""

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
    """Config of score and select together; keys without a comment have the same meaning as there."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "launch", "cache_dir", "max_dropped_share"})
    input: Paths = Field(min_length=1)
    """A folder of candidate sets, or several folders or globs of them, which are grouped by id."""
    out_dir: Path
    """Output folder, with `scored/` and `selected/`."""
    scorer: Scorer = "embedding"
    """`embedding`, `answer` or `both`; see `sicog score --help`."""
    encoder: EncoderConfig = EncoderConfig()
    checkpoint: Paths = ()
    """Checkpoint that wrote the candidates. When given, a candidate of another checkpoint is an error."""
    cache_dir: Path | None = None
    max_dropped_share: float = Field(default=0.05, ge=0, le=1)
    by: By = "score"
    threshold: float | None = Field(default=None, ge=-1, le=1)
    """Minimum value of the chosen candidate of a kept row; see `sicog select --help`."""
    threshold_file: Path | None = None
    """Use instead of `threshold`: the file that the sweep wrote."""
    threshold_k: int = Field(default=PAPER_K, ge=2)
    min_candidates: int = Field(default=3, ge=2)
    exclude: tuple[Path, ...] = ()
    styles: Styles | None = None
    seed: int = 0
    selected: str = Field(default="selected", pattern=r"^\w[\w.-]*$")
    """Name of the folder of kept rows. For another threshold give another name; the scores are reused."""
    workers: int = Field(default=1, ge=1)
    launch: LaunchConfig = LaunchConfig()

    @property
    def takes_array(self) -> bool:
        """As its scoring does."""
        return self.score_config().takes_array

    def score_config(self) -> ScoreConfig:
        """Return the config of `score`. Raises `ValueError` when it is not valid."""
        return self._part(ScoreConfig, input=self.input, out_dir=self.out_dir / "scored")

    def select_config(self) -> SelectConfig:
        """Return the config of `select`. Raises `ValueError` when it is not valid."""
        return self._part(SelectConfig, input=self.out_dir / "scored", out_dir=self.out_dir / self.selected)

    def _part(self, step: type[ConfigT], **folders: Any) -> ConfigT:
        given = {name: getattr(self, name) for name in type(self).model_fields if name in step.model_fields}
        return validate(step, {**given, **folders}, "curate")


def curate(config: CurateConfig) -> Path:
    """Score the candidates and select from them; returns the folder of kept examples.

    With SLURM, the last embedding job runs both.
    """
    if config.scorer != "both" and (config.by == "vote") != (config.scorer == "answer"):
        raise ValueError(
            f"scorer: {config.scorer} does not give the values that by: {config.by} ranks by. Change scorer or by"
        )
    score_config, select_config = config.score_config(), config.select_config()
    select_config.check()  # its mistakes are reported before hours of scoring
    score(score_config, then=partial(select, select_config))
    return select_config.out_dir

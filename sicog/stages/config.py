"""How the rows of a stage are cut and worked on: the keys that stages share, and the values that the runner takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from sicog.config import Config

if TYPE_CHECKING:
    from sicog.stages.shard import Finish, ShardTask

# Works on the shards somewhere else than in this process: a cluster. Called with the task of each shard, the finish of
# the stage, and what follows when its folder is complete.
Backend = Callable[["ShardTask", "Finish", Callable[[], object]], None]


@dataclass(frozen=True)
class StageOptions:
    """How a stage is worked on. None of it but `max_dropped_share` changes what comes out.

    block_size: rows that are processed, and noted as done, together.
    max_dropped_share: above this share of dropped and failed rows the stage stops with a `ValueError`; None: no limit.
    backend: what works on the shards; None: this process, or `workers` processes of this machine.
    share: (rank, ranks) where processes that were launched together all run the stage: each works on every ranks-th
        shard, and all return when the dataset is complete. They meet in `out_dir` alone, which all must see.
    """

    block_size: int = 64
    rows_per_shard: int = 1024
    workers: int = 1
    max_dropped_share: float | None = 0.05
    backend: Backend | None = None
    share: tuple[int, int] | None = None

    @classmethod
    def of(cls, config: Config, **others: Any) -> Self:
        """The options that a config states under these names, and `others`, which it does not state."""
        stated = {name: getattr(config, name) for name in StageConfig.last if name in type(config).model_fields}
        return cls(**{**stated, **others})


class StageConfig(Config):
    """Base of the config of a stage: the keys that say how its rows are worked on."""

    last: ClassVar[tuple[str, ...]] = ("max_dropped_share", "block_size", "rows_per_shard", "workers")

    max_dropped_share: float = Field(default=0.05, ge=0, le=1)
    block_size: int = Field(default=256, ge=1)
    rows_per_shard: int = Field(default=1024, ge=1)
    workers: int = Field(default=1, ge=1)

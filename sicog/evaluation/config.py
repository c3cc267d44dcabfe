"""What `sicog eval` takes; needs neither torch nor the kit."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from sicog.config import Config
from sicog.config.paths import NameOrPath
from sicog.evaluation.forms import Style
from sicog.model.precision import Precision

EXACT = "exact_matching"


class EvalConfig(Config):
    """Evaluate a checkpoint on a suite of benchmarks through VLMEvalKit, in the kit's own environment."""

    volatile: ClassVar[frozenset[str]] = frozenset({"name", "batch_size", "devices", "python", "data_root"})
    checkpoint: Path
    """The checkpoint to evaluate."""
    out_dir: Path
    """Folder of results; each checkpoint gets one in it."""
    name: str = ""
    """Name of the checkpoint in tables; empty: its folder's name."""
    format: Literal["sicog", "llava"] = "sicog"
    """`llava` for a checkpoint in the original's layout, which is imported first."""
    vision_tower: str | None = None
    """With format `llava`: as for `sicog import-checkpoint`."""
    turn_format: str | None = None
    """With format `llava`: as for `sicog import-checkpoint`."""
    suite: NameOrPath = "paper"
    """Name of a shipped suite, or a YAML."""
    only: tuple[str, ...] = ()
    """Some of the suite's benchmarks; empty: all."""
    judge: str = EXACT
    """exact_matching asks nobody; else the kit's name of a judge model. Benchmarks that only a judge can score are
    answered without one, and left unscored."""
    judge_base_url: str | None = None
    """Address where the judge is asked (its key in OPENAI_API_KEY)."""
    style: Style = "direct"
    """`direct`, or `cot`: chains of thought, of which the conclusion is scored."""
    batch_size: int = Field(default=16, ge=1)
    """Rows answered together."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Tokens of an answer at most, instead of the forms' own limits."""
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    slicing: bool = True
    precision: Precision = "auto"
    device: str = "auto"
    devices: int | None = Field(default=None, ge=1)
    """Processes, one for each GPU; null: all GPUs, or one process on the CPU."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many rows of each benchmark, to see whether all works."""
    verify_data: bool = True
    """Whether the kit compares the digests of its own data files and downloads those that differ."""
    python: Path | None = None
    """Python of the kit's environment; null: $SICOG_EVAL_PYTHON, else the one that `make eval-env` made."""
    kit: Path | None = None
    """A checkout of VLMEvalKit instead of the installed package."""
    data_root: Path | None = None
    """Where the kit keeps its data; null: $LMUData, else ~/LMUData."""

    def problems(self, processes: int = 1) -> list[str]:
        """No environment of the kit."""
        from sicog.evaluation.kit.interpreter import kit_python

        try:
            kit_python(self.python, self.kit)
        except ValueError as error:
            return [*super().problems(), str(error)]
        return super().problems()

    @property
    def shown_name(self) -> str:
        """The checkpoint's name in tables."""
        return self.name or self.checkpoint.resolve().name

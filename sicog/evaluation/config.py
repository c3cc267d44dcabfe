"""Config of `sicog eval`; needs neither torch nor the kit."""

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
    """Folder of results, with a folder for each checkpoint."""
    name: str = ""
    """Name of the checkpoint in tables; empty: its folder's name."""
    format: Literal["sicog", "llava"] = "sicog"
    """`llava` for a checkpoint in the original's layout; it is imported first."""
    vision_tower: str | None = None
    """With format `llava`: as for `sicog import-checkpoint`."""
    turn_format: str | None = None
    """With format `llava`: as for `sicog import-checkpoint`."""
    suite: NameOrPath = "paper"
    """Name of a shipped suite, or path of a YAML."""
    only: tuple[str, ...] = ()
    """Benchmarks of the suite to run; empty: all."""
    judge: str = EXACT
    """`exact_matching` for no judge, else the kit's name of a judge model. Without a judge, benchmarks that need it are
    answered but not scored."""
    judge_base_url: str | None = None
    """Address of the judge model; its key is in OPENAI_API_KEY."""
    style: Style = "direct"
    """`direct`, or `cot` for chains of thought; then the conclusion is scored."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per batch."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens of an answer; null: the limit of each form."""
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    slicing: bool = True
    precision: Precision = "auto"
    device: str = "auto"
    devices: int | None = Field(default=None, ge=1)
    """Number of processes, one per GPU; null: all GPUs, or one process on the CPU."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum rows of each benchmark, for a quick test."""
    verify_data: bool = True
    """The kit checks the digests of its own data files, and downloads files that differ."""
    python: Path | None = None
    """Python of the kit's environment; null: $SICOG_EVAL_PYTHON, else the environment of `make eval-env`."""
    kit: Path | None = None
    """A checkout of VLMEvalKit to use instead of the installed package."""
    data_root: Path | None = None
    """Data folder of the kit; null: $LMUData, else ~/LMUData."""

    def problems(self, processes: int = 1) -> list[str]:
        """Report a missing environment of the kit."""
        from sicog.evaluation.kit.interpreter import kit_python

        try:
            kit_python(self.python, self.kit)
        except ValueError as error:
            return [*super().problems(), str(error)]
        return super().problems()

    @property
    def shown_name(self) -> str:
        """Return the checkpoint's name in tables."""
        return self.name or self.checkpoint.resolve().name

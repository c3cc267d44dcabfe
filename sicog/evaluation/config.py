"""What `sicog eval` takes; needs neither torch nor the kit."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from sicog.config import Config
from sicog.evaluation.forms import Style
from sicog.model.precision import Precision

EXACT = "exact_matching"


class EvalConfig(Config):
    """Evaluate a checkpoint on a suite of benchmarks through VLMEvalKit, in the kit's own environment.

    name: what tables call the checkpoint; its folder's name by default.
    format: `llava` for a checkpoint in the original's layout, which is imported first (vision_tower, turn_format as
        for `sicog import-checkpoint`).
    suite: a shipped suite's name or a YAML. only: some of its benchmarks.
    judge: exact_matching asks nobody; else the kit's name of a judge model, asked at `judge_base_url` (its key in
        OPENAI_API_KEY). Benchmarks that only a judge can score are answered without one, and left unscored.
    style: `direct`, or `cot`: chains of thought, of which the conclusion is scored.
    batch_size: rows answered together. max_new_tokens: instead of the forms' own limits. temperature: 0 is greedy.
    limit: only so many rows of each benchmark, to see whether all works.
    verify_data: whether the kit compares the digests of its own data files and downloads those that differ.
    python: of the kit's environment; by default $SICOG_EVAL_PYTHON, else the one that `make eval-env` made.
    kit: a checkout of VLMEvalKit instead of the installed package. data_root: where the kit keeps its data; by default
        $LMUData, else ~/LMUData. devices: processes, one for each GPU; by default all GPUs, or one on the CPU.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"name", "batch_size", "devices", "python", "data_root"})
    checkpoint: Path
    out_dir: Path
    name: str = ""
    format: Literal["sicog", "llava"] = "sicog"
    vision_tower: str | None = None
    turn_format: str | None = None
    suite: str = "paper"
    only: tuple[str, ...] = ()
    judge: str = EXACT
    judge_base_url: str | None = None
    style: Style = "direct"
    batch_size: int = Field(default=16, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    slicing: bool = True
    precision: Precision = "auto"
    device: str = "auto"
    devices: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    verify_data: bool = True
    python: Path | None = None
    kit: Path | None = None
    data_root: Path | None = None

    def problems(self, processes: int = 1) -> list[str]:
        """No environment of the kit."""
        from sicog.evaluation.run import kit_python

        try:
            kit_python(self)
        except ValueError as error:
            return [*super().problems(), str(error)]
        return super().problems()

    @property
    def shown_name(self) -> str:
        """The checkpoint's name in tables."""
        return self.name or self.checkpoint.resolve().name

"""Configuration of `sicog mini-parts`: where the parts come from, their sizes, and how long they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from sicog.config import Config
from sicog.stages.provenance import digest_file

Precision = Literal["float32", "bfloat16"]  # of the matrix products; weights are float32 either way
SHIPPED_WEIGHTS = Path(__file__).parents[1] / "parts" / "parts.safetensors"


class VisionPartConfig(Config):
    """A small CLIP vision tower and its training on labels of patches. The last layer is never run, as in LLaVA."""

    width: int = Field(default=128, multiple_of=32)
    """Hidden size."""
    layers: int = Field(default=5, ge=2)
    """Layers of the tower."""
    mlp_width: int = Field(default=448, ge=1)
    """Hidden size of each layer's MLP."""
    scale: int = Field(default=112, multiple_of=14)
    """Slicing scale of the model that will use the tower."""
    steps: int = Field(default=8000, ge=1)
    """Updates."""
    images_per_step: int = Field(default=12, ge=1)
    """Images of an update; each gives all its views."""
    learning_rate: float = Field(default=1.2e-3, gt=0)
    """Highest learning rate."""
    matrix_learning_rate: float | None = Field(default=None, gt=0)
    """Muon's learning rate for the layers' matrices; null: AdamW for all."""
    precision: Precision = "float32"
    measured: int = Field(default=1000, ge=1)
    """Fresh scenes that the trained tower is probed on."""


class LanguagePartConfig(Config):
    """A small Qwen2 and its training on mini text."""

    width: int = Field(default=160, multiple_of=32)
    """Hidden size."""
    layers: int = Field(default=4, ge=1)
    """Layers of the model."""
    mlp_width: int = Field(default=448, ge=1)
    """Hidden size of each layer's MLP."""
    vocabulary: int = Field(default=760, ge=300)
    """Tokens at most; with the default each word of the mini world is one token."""
    query_grid: int = Field(default=4, ge=1)
    """The projector's; the grids of cells in the text are of the same size."""
    steps: int = Field(default=5000, ge=1)
    """Updates."""
    tokens_per_step: int = Field(default=3072, ge=512)
    """Tokens of an update."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Highest learning rate."""
    matrix_learning_rate: float | None = Field(default=None, gt=0)
    """Muon's learning rate for the layers' matrices; null: AdamW for all."""
    precision: Precision = "float32"
    compile: bool = False
    """Whether to compile the model; this needs a C++ compiler."""
    measured: int = Field(default=1000, ge=1)
    """Fresh items of each style that the trained model is measured on."""


class MiniPartsConfig(Config):
    """The mini world's parts: where they come from, and how they are trained."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "ship"})

    out_dir: Path
    source: Literal["shipped", "train"] = "shipped"
    """`shipped` unpacks the parts of the package; `train` trains new ones."""
    ship: bool = False
    """With `train`: also put the new parts into the package."""
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=0)
    """Processes that draw images; they take a small share of one core."""
    vision: VisionPartConfig = VisionPartConfig()
    language: LanguagePartConfig = LanguagePartConfig()

    def identity(self) -> dict[str, Any]:
        """For shipped parts their content alone: the values of a training that is not run decide nothing."""
        if self.source == "shipped" and SHIPPED_WEIGHTS.is_file():
            return {"source": "shipped", "weights": digest_file(SHIPPED_WEIGHTS)}
        return super().identity()

"""Config of `sicog mini-parts`: source of the parts, their sizes, and their training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from sicog.config import Config
from sicog.stages.provenance import digest_file

Precision = Literal["float32", "bfloat16"]  # precision of matrix products; weights are always float32
SHIPPED_WEIGHTS = Path(__file__).parents[1] / "parts" / "parts.safetensors"


class VisionPartConfig(Config):
    """A small CLIP vision tower and its training on labels of patches. As in LLaVA, the last layer is never run."""

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
    """Images per update, each with all its views."""
    learning_rate: float = Field(default=1.2e-3, gt=0)
    """Peak learning rate."""
    matrix_learning_rate: float | None = Field(default=None, gt=0)
    """Muon's learning rate for the layers' matrices; null: AdamW for all."""
    precision: Precision = "float32"
    measured: int = Field(default=1000, ge=1)
    """Number of fresh scenes to probe the trained tower on."""


class LanguagePartConfig(Config):
    """A small Qwen2 and its training on mini text."""

    width: int = Field(default=160, multiple_of=32)
    """Hidden size."""
    layers: int = Field(default=4, ge=1)
    """Layers of the model."""
    mlp_width: int = Field(default=448, ge=1)
    """Hidden size of each layer's MLP."""
    vocabulary: int = Field(default=760, ge=300)
    """Maximum size of the vocabulary; with the default each word of the mini world is one token."""
    query_grid: int = Field(default=4, ge=1)
    """Query grid of the projector; grids of cells in the text have the same size."""
    steps: int = Field(default=5000, ge=1)
    """Updates."""
    tokens_per_step: int = Field(default=3072, ge=512)
    """Tokens per update."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate."""
    matrix_learning_rate: float | None = Field(default=None, gt=0)
    """Muon's learning rate for the layers' matrices; null: AdamW for all."""
    precision: Precision = "float32"
    compile: bool = False
    """Compile the model; this needs a C++ compiler."""
    measured: int = Field(default=1000, ge=1)
    """Number of fresh items of each style to measure the trained model on."""


class MiniPartsConfig(Config):
    """The mini world's parts: their source and their training."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "ship"})

    out_dir: Path
    source: Literal["shipped", "train"] = "shipped"
    """`shipped` unpacks the parts of the package; `train` trains new parts."""
    ship: bool = False
    """Also write the new parts into the package, for `train`."""
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=0)
    """Processes that render images; they need a small share of one core."""
    vision: VisionPartConfig = VisionPartConfig()
    language: LanguagePartConfig = LanguagePartConfig()

    def identity(self) -> dict[str, Any]:
        """Return the identity: for shipped parts only their content, because training values are not used."""
        if self.source == "shipped" and SHIPPED_WEIGHTS.is_file():
            return {"source": "shipped", "weights": digest_file(SHIPPED_WEIGHTS)}
        return super().identity()

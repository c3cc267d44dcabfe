"""The typed config of training data: rows, image folder, cache. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.data.amounts import require_total
from sicog.data.mixture import Source, Sources, load_sources


class DataConfig(Config):
    """The training rows and their images."""

    volatile: ClassVar[frozenset[str]] = frozenset({"max_dropped_share"})

    path: Path | None = None
    """A dataset folder, a folder of shards, a .json, .jsonl, .parquet or .tar file, `prefix{a,b}.json`, or a .yaml
    mixture."""
    sources: Sources = ()
    """Instead of `path`: the sources of a mixture."""
    image_folder: Path | None = None
    """Folder that image paths are relative to (its .tar files are searched too), or one .tar file."""
    image_roots: tuple[Path, ...] = ()
    cache_dir: Path | None = None
    check_images: Literal["decode", "header"] = "decode"
    """`decode` reads every image once before training, so a damaged image is dropped and does not stop the run later.
    `header` reads only sizes."""
    max_dropped_share: float = Field(default=0.05, ge=0, le=1)
    """The run stops if a larger share of rows cannot be used. With a larger value it can resume in the same folder.
    """

    @model_validator(mode="after")
    def _check_sources(self) -> DataConfig:
        if (self.path is None) == (not self.sources):
            raise ValueError("give either data.path or data.sources")
        require_total(self.sources, None)
        return self

    def chosen_sources(self) -> tuple[Source, ...]:
        """The given sources, or the sources of `path`. Raises `ValueError` for an invalid mixture."""
        return self.sources or load_sources(Path(str(self.path)))

    def problems(self, processes: int = 1) -> list[str]:
        """Messages about an invalid mixture."""
        if self.path is not None and self.path.exists():
            try:
                self.chosen_sources()
            except ValueError as error:
                return [*super().problems(), str(error)]
        return super().problems()

    def row_paths(self) -> list[Path]:
        """The paths of the given sources, or of the sources of `path`; empty for an invalid mixture."""
        try:
            return [source.path for source in self.chosen_sources()]
        except ValueError:
            return []

    def inputs(self) -> dict[str, Path]:
        """The files and folders whose rows are read, by name; images are not among them."""
        if self.path is None:
            return {f"data.sources.{i}": source.path for i, source in enumerate(self.sources)}
        behind = [source.path for source in self.chosen_sources()]
        found = {f"data.path.{i}": path for i, path in enumerate(behind) if path != self.path}
        # Rows, or a mixture; `prefix{a,b}.json` is neither.
        return {**found, "data.path": self.path} if self.path in behind or self.path.is_file() else found


class NoiseConfig(Config):
    """Random changes to training images, all off at 0.

    They depend on the training's seed and the row's id, so a row looks the same in every epoch."""

    jitter: float = Field(default=0.0, ge=0, lt=1)
    """Brightness, contrast and saturation are scaled by 1 - jitter to 1 + jitter. Hues do not change, because labels
    name colours."""
    scale: float = Field(default=0.0, ge=0, lt=1)
    """The image is shrunk by up to this share of its sides and placed at random on a canvas of its old size."""
    cutout: float = Field(default=0.0, ge=0, lt=1)
    """A rectangle of up to this share of the area is covered with the mean colour."""
    mirror: float = Field(default=0.0, ge=0, le=1)
    """Share of the rows with images that are mirrored, with `left` and `right` swapped in all their texts. Do not use
    it if images contain writing, or if `right` means correct."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the image features that are zeroed before the language model sees them."""

    @property
    def changes_images(self) -> bool:
        """Whether any change applies to images."""
        return any((self.jitter, self.scale, self.cutout, self.mirror))

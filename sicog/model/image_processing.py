"""Turn an image file into patches: decode, convert to RGB, resize, cut, normalise, flatten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, BaseImageProcessor, BatchFeature

from sicog.model.configuration import CLIP_MEAN, CLIP_STD, SicogConfig
from sicog.model.image_files import image_size as image_size
from sicog.model.image_files import load_image as load_image
from sicog.model.image_files import to_rgb
from sicog.model.image_plan import ImagePlan
from sicog.model.inputs import as_images
from sicog.model.pixels import normalise_pixels
from sicog.model.slicing import Size, SlicePlan
from sicog.model.square import padded_square


@dataclass(frozen=True)
class PreparedImage:
    """An image as input of the vision tower.

    pixels: [patches of all views, 3 * p * p], channel-major within a patch like a convolution's weight. They are
    normalised float32, or uint8 if the model normalises them.
    view_sizes: (rows, columns) of each view in patches; slices row-major, then the thumbnail.
    grid: (columns, rows) of the slices, (0, 0) when there are none.
    """

    pixels: np.ndarray
    view_sizes: tuple[tuple[int, int], ...]
    grid: tuple[int, int]


class SicogImageProcessor(BaseImageProcessor):
    """Slicing and normalisation with Pillow only, so the pixels are the same on every machine.

    scale, patch_size, max_slices: see `plan_slices`. long_side: when set, every image is first resized to it.
    max_patches: a view with more patches is refused.
    normalize_on: "device" keeps the patches in uint8, a quarter of the bytes, and the model normalises them on its
    device; "host" does it here. The values are the same.
    image_mode: "slices", or "square": one view of scale x scale pixels, padded with the mean colour.
    """

    model_input_names = ["pixel_values", "view_sizes", "image_grids"]

    def __init__(
        self,
        scale: int = 336,
        patch_size: int = 14,
        max_slices: int = 7,
        max_patches: int = 2304,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        long_side: int | None = None,
        normalize_on: Literal["host", "device"] = "host",
        image_mode: str = "slices",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if normalize_on not in ("host", "device"):
            raise ValueError(f"normalize_on is 'host' or 'device', got {normalize_on!r}")
        if image_mode not in ("slices", "square"):
            raise ValueError(f"image_mode is 'slices' or 'square', got {image_mode!r}")
        self.image_mode = image_mode
        self.scale = scale
        self.patch_size = patch_size
        self.max_slices = max_slices
        self.max_patches = max_patches
        self.image_mean = [float(x) for x in image_mean]
        self.image_std = [float(x) for x in image_std]
        self.long_side = long_side
        self.normalize_on = normalize_on

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoImageProcessor") -> None:
        """Nothing to do: a saved folder refers to the class in this package and holds no copy of its code."""

    def plan(self, width: int, height: int, *, slicing: bool = True) -> SlicePlan:
        """The plan for an image of this size. Raises `ValueError` if a view would exceed `max_patches`."""
        return self._sizes.plan(width, height, slicing=slicing)

    def prepare(self, image: Image.Image, *, slicing: bool = True) -> PreparedImage:
        """The patches of an image's views; `slicing=False` gives the thumbnail alone. Raises `ValueError` as `plan`."""
        image = to_rgb(image)
        plan = self.plan(*image.size, slicing=slicing)
        if self.image_mode == "square":
            image = padded_square(image, self.scale, self.image_mean)
        elif (first := self._sizes.first_size(*image.size)) != image.size:
            image = image.resize(first, Image.Resampling.BICUBIC)
        cuts = [(plan.resized_size, plan.grid)] if plan.grid and plan.resized_size else []
        cuts.append((plan.thumbnail_size, (1, 1)))
        sizes = plan.views(self.patch_size)
        patches = np.empty((sum(h * w for h, w in sizes), 3 * self.patch_size**2), dtype=np.uint8)
        start = 0
        for size, grid in cuts:
            n = size[0] * size[1] // self.patch_size**2
            self._cut(image, size, grid, patches[start : start + n])
            start += n
        if self.normalize_on == "host":
            patches = normalise_pixels(torch.from_numpy(patches), self.image_mean, self.image_std).numpy()
        return PreparedImage(patches, sizes, plan.grid or (0, 0))

    def preprocess(self, images: Any, *, slicing: bool = True, return_tensors: str | None = None) -> BatchFeature:
        """Prepare one image or a list of them: `pixel_values`, `view_sizes` and `image_grids`, concatenated.

        An image is a PIL image, a path or an array of uint8 [H, W, 3]. Raises `ValueError` for anything else.
        """
        prepared = [self.prepare(image, slicing=slicing) for image in as_images(images)]
        if not prepared:
            raise ValueError("no image to prepare")
        data = {
            "pixel_values": concatenated_arrays([p.pixels for p in prepared]),
            "view_sizes": np.array([size for p in prepared for size in p.view_sizes], dtype=np.int64),
            "image_grids": np.array([p.grid for p in prepared], dtype=np.int64),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def _sizes(self) -> ImagePlan:
        """Built on each call, because the settings of a processor may change."""
        return ImagePlan(
            self.scale, self.patch_size, self.max_slices, self.max_patches, self.long_side, self.image_mode
        )

    def _view_size(self, size: Size, grid: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) in patches of one view, when an image of `size` is cut into `grid` (columns, rows)."""
        return size[1] // grid[1] // self.patch_size, size[0] // grid[0] // self.patch_size

    def _cut(self, image: Image.Image, size: Size, grid: tuple[int, int], out: np.ndarray) -> None:
        """Resize the image once, cut it into `grid` views of equal size and write their patches to `out` [P, K]."""
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        p, (columns, rows), (h, w) = self.patch_size, grid, self._view_size(size, grid)
        # One item is the p bytes of a patch's row in one channel. Taking channels from Pillow and moving such items is
        # twice as fast as a transposed copy of an array of bytes.
        item = np.dtype(f"V{p}")
        items = out.view(item).reshape(rows, columns, h, w, 3, p)
        for c, channel in enumerate("RGB"):
            blocks = np.frombuffer(image.tobytes("raw", channel), item).reshape(rows, h, p, columns, w)
            items[:, :, :, :, c] = blocks.transpose(0, 3, 1, 4, 2)


def concatenated_arrays(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The arrays concatenated; a single array is returned without a copy."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


AutoImageProcessor.register(SicogConfig, image_processor_classes={"pil": SicogImageProcessor}, exist_ok=True)

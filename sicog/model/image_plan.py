"""Plan the views of an image from its size and the image processor's settings. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from sicog.model.slicing import Size, SlicePlan, plan_slices
from sicog.model.square import plan_square


@dataclass(frozen=True)
class ImagePlan:
    """The settings of `SicogImageProcessor` that decide sizes; the defaults are the full-size model's."""

    scale: int = 336
    patch_size: int = 14
    max_slices: int = 7
    max_patches: int = 2304
    long_side: int | None = None
    image_mode: str = "slices"

    def plan(self, width: int, height: int, *, slicing: bool = True) -> SlicePlan:
        """The plan for an image of this size. Raises `ValueError` if a view would exceed `max_patches`."""
        if self.image_mode == "square":
            return plan_square(self.scale, self.patch_size)
        width, height = self.first_size(width, height)
        plan = plan_slices(width, height, scale=self.scale, patch_size=self.patch_size, max_slices=self.max_slices)
        if not slicing:
            plan = plan.without_slices()
        for view in filter(None, (plan.thumbnail_size, plan.slice_size)):
            if (n := view[0] * view[1] // self.patch_size**2) > self.max_patches:
                raise ValueError(
                    f"an image of {width}x{height} pixels is too elongated: a view would have {n} patches, "
                    f"but max_patches is {self.max_patches}"
                )
        return plan

    def first_size(self, width: int, height: int) -> Size:
        """The (width, height) that an image is resized to before it is cut."""
        if self.long_side is None:
            return width, height
        factor = self.long_side / max(width, height)
        short = max(int(min(width, height) * factor), 1)
        return (self.long_side, short) if width >= height else (short, self.long_side)

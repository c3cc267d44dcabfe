"""Image preparation: decoded images to patches, against the original way with Transformers' CLIP image processor.

The original slices an image twice, first to count its slices. With one view per image (align) it creates all slices and
discards them. `once` is a stricter plain way that slices only once. Pixels are equal before normalisation, and within
5e-7 after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.timing import arguments, compare, report
from sicog.model import SicogImageProcessor
from sicog.model.slicing import plan_slices

# Image sizes of the stages: LLaVA-Pretrain has a short side of 336, COCO 640x480; screenshots, photographs, a banner.
SIZES = ((336, 336), (448, 336), (336, 504), (640, 480), (427, 640), (1024, 768), (1600, 400))
SMOKE_SIZES = ((60, 50), (400, 380))
P = 14


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Smooth shapes with noise, RGB."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((smooth + generator.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8))


def slices_and_thumbnail(image: Image.Image) -> tuple[list[Image.Image], Image.Image]:
    """The plain slicing: the thumbnail, the whole resized, one crop per slice."""
    image = image.convert("RGB")
    plan = plan_slices(*image.size)
    thumbnail = image.resize(plan.thumbnail_size, Image.Resampling.BICUBIC)
    if plan.grid is None or plan.resized_size is None or plan.slice_size is None:
        return [], thumbnail
    whole, (w, h) = image.resize(plan.resized_size, Image.Resampling.BICUBIC), plan.slice_size
    columns, rows = plan.grid
    boxes = [(c * w, r * h, (c + 1) * w, (r + 1) * h) for r in range(rows) for c in range(columns)]
    return [whole.crop(box) for box in boxes], thumbnail


def plain_way(clip: Any, *, sliced: bool, twice: bool) -> Callable[[Image.Image], list[np.ndarray]]:
    """One image at a time, one view at a time -> float32 [3, h, w] by view."""

    def prepare(image: Image.Image) -> list[np.ndarray]:
        if twice:
            len(slices_and_thumbnail(image)[0])
        slices, thumbnail = slices_and_thumbnail(image)
        views = [*slices, thumbnail] if sliced else [thumbnail]
        return [clip(view, return_tensors="np")["pixel_values"][0] for view in views]

    return prepare


def as_patches(view_3HW: np.ndarray) -> np.ndarray:
    """[3, h, w] -> [patches, 3 * p * p]."""
    _, h, w = view_3HW.shape
    return view_3HW.reshape(3, h // P, P, w // P, P).transpose(1, 3, 0, 2, 4).reshape(-1, 3 * P * P)


def check(images: Sequence[Image.Image], plain: Callable[[Image.Image], Any], raw: Callable, ours: Any) -> float:
    """Largest difference of normalised pixels. Before normalisation there must be none."""
    worst = 0.0
    for image in images:
        want, got = np.concatenate([as_patches(v) for v in plain(image)]), ours(image).pixels
        if got.dtype == np.uint8:
            assert np.array_equal(np.concatenate([as_patches(v) for v in raw(image)]), got)
        else:
            worst = max(worst, float(np.abs(want - got).max()))
    assert worst <= 5e-7, f"pixels differ by {worst}"
    return worst


def main() -> None:
    options = arguments(__doc__ or "")
    images = [photograph(*size, seed) for seed, size in enumerate(SMOKE_SIZES if options.smoke else SIZES)]
    clip = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    unscaled = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    rows = []
    for figure, sliced in (("P1 one view", False), ("P2 sliced", True)):
        for normalize_on in ("host", "device"):
            processor = SicogImageProcessor(normalize_on=normalize_on)

            def ours(image: Image.Image, processor: Any = processor, sliced: bool = sliced) -> Any:
                return processor.prepare(image, slicing=sliced)

            raw = plain_way(unscaled, sliced=sliced, twice=False)
            for twice in (True, False):
                plain = plain_way(clip, sliced=sliced, twice=twice)
                worst = check(images, plain, raw, ours)
                timed = compare(
                    lambda plain=plain: [plain(i) for i in images],
                    lambda ours=ours: [ours(i) for i in images],
                    repeats=options.repeats,
                )
                rows.append(
                    {
                        "figure": figure,
                        "plain way": "original (slices twice)" if twice else "strict (slices once)",
                        "handed over": "float32" if normalize_on == "host" else "uint8",
                        "plain ms/image": 1000 * timed.plain_s / len(images),
                        "ours ms/image": 1000 * timed.ours_s / len(images),
                        "ratio": timed.ratio,
                        "difference": worst,
                    }
                )
    report("image preparation", rows, options.out)


if __name__ == "__main__":
    main()

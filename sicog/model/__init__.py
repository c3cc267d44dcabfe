"""The network, Hugging Face native.

slicing           plan the slices of an image; `square` shows it whole, `image_plan` gives its views
layout            the token sequence of an image
image_files       decode image files
image_processing  images to patches; `pixels` normalises them
views             group views by shape
vision_tower      CLIP for views of any size
resampler         views to features; `regions` pools them, `mlp_projector` is the low-resolution variant
modeling          the whole model; `configuration` is its config
processing        turns and images to inputs (`inputs`, `encoded`) and back
turn_formats      chat templates; `messages` converts Hugging Face messages, `plain_text` tokenises content
checkpoints       load and build models (`weights`, `weight_files`, `hub`); `card` is the model card
registration      our classes for the Auto classes
kernels/          attention and loss head
original/         checkpoints in LLaVA's layout
lengths           lengths of rows, known before the model runs
precision         precision and device; `part_names` names the parts
show              `sicog show-image`

Importing it registers the classes below with Transformers' Auto classes, before or after Transformers is imported.
`slicing` and `layout` need no torch. The classes are loaded together with Transformers, or on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sicog.model.registration import register

if TYPE_CHECKING:
    from sicog.model.checkpoints import load_checkpoint, load_parts
    from sicog.model.configuration import SicogConfig
    from sicog.model.image_processing import SicogImageProcessor, image_size, load_image
    from sicog.model.modeling import SicogForConditionalGeneration
    from sicog.model.processing import Encoded, SicogProcessor

_HOME = {
    "load_checkpoint": "checkpoints",
    "load_parts": "checkpoints",
    "SicogConfig": "configuration",
    "SicogImageProcessor": "image_processing",
    "image_size": "image_processing",
    "load_image": "image_processing",
    "SicogForConditionalGeneration": "modeling",
    "Encoded": "processing",
    "SicogProcessor": "processing",
}
__all__ = [
    "Encoded",
    "SicogConfig",
    "SicogForConditionalGeneration",
    "SicogImageProcessor",
    "SicogProcessor",
    "image_size",
    "load_checkpoint",
    "load_image",
    "load_parts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("sicog.model.checkpoints")  # imports, and so registers, every class
    return getattr(import_module(f"sicog.model.{_HOME[name]}"), name)


register()

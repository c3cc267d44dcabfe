"""Let torchvision import beside a torch without CUDA: its registry build brings operators for CUDA only.

They are declared, not implemented: the kit imports torchvision, and its image benchmarks call none of them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PAIR = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[object] = []  # a torch.library.Library takes its operators along when it goes


def declare_missing_operators() -> None:
    """Declare what torchvision's import looks for, when torch has no CUDA; a pair that matches is left alone."""
    spec = importlib.util.find_spec("torchvision")  # finds it, imports nothing
    if _declared or spec is None or not spec.submodule_search_locations:
        return
    import torch

    if torch.version.cuda is not None or _brings_operators(Path(spec.submodule_search_locations[0])):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _PAIR)
    _declared.append(library)


def _brings_operators(torchvision: Path) -> bool:
    """Whether the installed torchvision was built for this torch."""
    import torch

    for extension in torchvision.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
        except (ImportError, OSError):
            return False
        return True
    return False

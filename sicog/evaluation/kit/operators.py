"""Make torchvision importable with a torch without CUDA: its PyPI build has operators for CUDA only.

The operators are declared, not implemented. The kit imports torchvision, but its image benchmarks never call them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PAIR = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[object] = []  # keep a reference: a deleted torch.library.Library removes its operators


def declare_missing_operators() -> None:
    """Declare the operators that torchvision's import needs, when torch has no CUDA; skip a matching pair."""
    spec = importlib.util.find_spec("torchvision")  # only finds the module
    if _declared or spec is None or not spec.submodule_search_locations:
        return
    import torch

    if torch.version.cuda is not None or _has_operators(Path(spec.submodule_search_locations[0])):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _PAIR)
    _declared.append(library)


def _has_operators(torchvision: Path) -> bool:
    """Return whether the installed torchvision was built for this torch."""
    import torch

    for extension in torchvision.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
        except (ImportError, OSError):
            return False
        return True
    return False

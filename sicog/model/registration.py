"""Transformers' Auto classes find ours: in a process that has imported both, and in a saved folder by its own file.

PEFT, too, learns which layers of ours get an adapter when its config names none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_CLASSES_FILE = "sicog_classes.py"
_CLASSES = '''"""Where Transformers finds the classes of this checkpoint: in the package sicog, to be installed."""

from sicog.model import SicogConfig, SicogForConditionalGeneration, SicogImageProcessor, SicogProcessor
'''
# Saved in config.json and processor_config.json: a Python that has not imported sicog.model is told to trust the
# folder's file, or to import the package, and does not take the tokenizer for the processor.
AUTO_MAP = {
    auto: f"{_CLASSES_FILE.removesuffix('.py')}.{ours}"
    for auto, ours in {
        "AutoConfig": "SicogConfig",
        "AutoModel": "SicogForConditionalGeneration",
        "AutoModelForImageTextToText": "SicogForConditionalGeneration",
        "AutoImageProcessor": "SicogImageProcessor",
        "AutoProcessor": "SicogProcessor",
    }.items()
}

# Those that PEFT adapts in Llama and Qwen2; the vision tower has layers of these names too, which are left alone.
_LORA_TARGETS = r"language_model\..*\.(q_proj|v_proj)"


def write_classes(folder: str | Path) -> None:
    """Write the file that `AUTO_MAP` names into a checkpoint's folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / _CLASSES_FILE).write_text(_CLASSES)


def register() -> None:
    """Register all classes with the Auto classes, and PEFT's targets, now or when the libraries are imported.

    Importing them takes seconds, and much of this package needs neither Transformers nor torch.
    """
    for library, then in (("transformers", _register_classes), ("peft", _register_lora_targets)):
        if library in sys.modules:
            then()
        else:
            sys.meta_path.insert(0, _WhenImported(library, then))


def _register_classes() -> None:
    if not _registering():
        import_module("sicog.model.checkpoints")


def _register_lora_targets() -> None:
    mapping = getattr(import_module("peft.utils"), "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", None)
    if mapping is not None:  # another version may keep them elsewhere: it then asks for target_modules
        mapping.setdefault("sicog", _LORA_TARGETS)


class _WhenImported(MetaPathFinder):
    """Notices the first import of a library, lets it happen, and calls `then`."""

    def __init__(self, library: str, then: Callable[[], None]) -> None:
        self.library = library
        self.then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.library:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            sys.meta_path.remove(self)  # only now: whoever asks whether it is installed looks for it too
            run(module)
            self.then()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _registering() -> bool:
    """Whether it is a module of ours that imports Transformers: each registers its own class when it is done."""
    ours = (module for name, module in list(sys.modules.items()) if name.startswith("sicog.model."))
    return any(getattr(module.__spec__, "_initializing", False) for module in ours)

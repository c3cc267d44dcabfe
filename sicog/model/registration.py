"""Register our classes with Transformers' Auto classes, in the process and in saved folders.

Also tell PEFT which layers get an adapter by default.
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
# Saved in config.json and processor_config.json. If sicog.model is not imported, Transformers then asks the user to
# trust the folder's file or to import the package. Without it, it would load the tokenizer as the processor.
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

# The layers that PEFT adapts in Llama and Qwen2. Layers of the vision tower with these names get no adapter.
_LORA_TARGETS = r"language_model\..*\.(q_proj|v_proj)"


def write_classes(folder: str | Path) -> None:
    """Write the file that `AUTO_MAP` names into a checkpoint's folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / _CLASSES_FILE).write_text(_CLASSES)


def register() -> None:
    """Register all classes with the Auto classes, and PEFT's targets, now or when the libraries are imported.

    Importing them takes seconds, and much of this package works without Transformers and torch.
    """
    for library, then in (("transformers", _register_classes), ("peft", _register_lora_targets)):
        if library in sys.modules:
            then()
        else:
            sys.meta_path.insert(0, _WhenImported(library, then))


def _register_classes() -> None:
    if not _is_partly_imported():
        import_module("sicog.model.checkpoints")


def _register_lora_targets() -> None:
    mapping = getattr(import_module("peft.utils"), "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", None)
    if mapping is not None:  # another version may keep them elsewhere; it then asks for target_modules
        mapping.setdefault("sicog", _LORA_TARGETS)


class _WhenImported(MetaPathFinder):
    """Call `then` after the first import of a library."""

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
            sys.meta_path.remove(self)  # only now, because checks whether it is installed call `find_spec` too
            run(module)
            self.then()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _is_partly_imported() -> bool:
    """Whether one of our modules is importing Transformers; it then registers its own class at the end."""
    ours = (module for name, module in list(sys.modules.items()) if name.startswith("sicog.model."))
    return any(getattr(module.__spec__, "_initializing", False) for module in ours)

"""Read weights: what is damaged, incomplete or of another shape is refused by name, never drawn at random instead."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

# What the loaders raise: no file; a cut .safetensors; a cut .bin, or one that holds more than tensors; cut JSON.
UNREADABLE = (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, json.JSONDecodeError)
_SHOWN = 8


def pretrained(kind: Any, name: str, **kwargs: Any) -> Any:
    """`kind.from_pretrained(name)` with every tensor from the files. Raises `ValueError` naming files and tensors."""
    try:
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "local_files_only": True, **kwargs}
        model, info = kind.from_pretrained(name, **options)
    except UNREADABLE as error:
        raise ValueError(f"{', '.join(_damaged(Path(name))) or name}: {unreadable(error)}") from error
    if others := sorted(info["mismatched_keys"]):
        tensor, found, wanted = others[0]
        raise ValueError(
            f"{name}: {len(others)} tensors are not of the shape that its config.json says, such as {tensor}: "
            f"{tuple(found)} instead of {tuple(wanted)}"
        )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name}: the weights are incomplete, {len(missing)} tensors are missing: {listed(missing)}")
    return model


def unreadable(error: BaseException) -> str:
    """What went wrong, in one sentence."""
    if isinstance(error, pickle.UnpicklingError):  # torch's own text advises to run what is in it
        return "holds something else than plain tensors, or is damaged; nothing of it was executed"
    sentence = str(error).strip().split("\n")[0].split(". ")[0]
    return f"cannot be read, damaged or incomplete ({type(error).__name__}{': ' + sentence if sentence else ''})"


def _damaged(folder: Path) -> list[str]:
    """The weight files of a local folder that do not open; of .bin files, which take long to open, all."""
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except UNREADABLE:
            found.append(str(file))
    return found or [str(file) for file in sorted(folder.glob("pytorch_model*.bin"))]


def listed(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Transformers from listing what it finds in a checkpoint."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)

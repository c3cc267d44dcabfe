"""Load weights. Damaged, missing or misshapen tensors are errors; they are never initialised at random."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

# Errors of the loaders: missing file; truncated .safetensors; truncated .bin or one with other objects; truncated JSON.
UNREADABLE = (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, json.JSONDecodeError)
_SHOWN = 8


def load_pretrained(kind: Any, name: str, **kwargs: Any) -> Any:
    """`kind.from_pretrained(name)` with every tensor from the files. Raises `ValueError` with files and tensors."""
    try:
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "local_files_only": True, **kwargs}
        model, info = kind.from_pretrained(name, **options)
    except UNREADABLE as error:
        raise ValueError(f"{', '.join(_damaged_files(Path(name))) or name}: {read_error_message(error)}") from error
    if others := sorted(info["mismatched_keys"]):
        tensor, found, wanted = others[0]
        raise ValueError(
            f"{name}: {len(others)} tensors do not have the shape in config.json, such as {tensor}: "
            f"{tuple(found)} instead of {tuple(wanted)}"
        )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{name}: the weights are incomplete, {len(missing)} tensors are missing: {join_names(missing)}"
        )
    return model


def read_error_message(error: BaseException) -> str:
    """The error in one sentence."""
    if isinstance(error, pickle.UnpicklingError):  # torch's own text suggests to execute the content
        return "holds other objects than tensors, or is damaged; nothing in it was executed"
    sentence = str(error).strip().split("\n")[0].split(". ")[0]
    return f"cannot be read, damaged or incomplete ({type(error).__name__}{': ' + sentence if sentence else ''})"


def _damaged_files(folder: Path) -> list[str]:
    """The weight files of a local folder that cannot be opened, and all .bin files, because opening them is slow."""
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except UNREADABLE:
            found.append(str(file))
    return found or [str(file) for file in sorted(folder.glob("pytorch_model*.bin"))]


def join_names(names: Sequence[str]) -> str:
    """The first names and the number of the others."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


@contextmanager
def without_weight_report() -> Iterator[None]:
    """Stop Transformers from listing the tensors of a checkpoint."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)

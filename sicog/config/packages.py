"""Packages that only some configs need, and how each is installed. One sentence wherever one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

_INSTALL = {
    "peft": "'sicog[train]'",
    "deepspeed": "'sicog[train]'",
    "openai": "'sicog[annotate]'",
    "datatrove": "'sicog[cluster]'",
    "openpyxl": "'sicog[eval]'",
    "wandb": "'sicog[track]'",
}


def missing_package_message(module: str, what: str, package: str = "") -> list[str]:
    """The sentence for a package that is not installed, or nothing. Imports nothing.

    module: as it is imported. what: needs it, as the sentence begins. package: its name for pip, where that differs.
    """
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    name = package or module
    return [] if found else [f"{what} needs the package {name}: pip install {_INSTALL.get(module, name)}"]


def import_package(module: str, what: str) -> Any:
    """The module. Raises `ValueError` with the sentence of `lacking` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        if sentence := missing_package_message(module, what):
            raise ValueError(sentence[0]) from None
        raise

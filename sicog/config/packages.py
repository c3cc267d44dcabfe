"""Optional packages and how to install them: one error message for all that are missing."""

from __future__ import annotations

import importlib
import importlib.metadata
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
    """The error message for a package that is not installed, or an empty list. Imports nothing.

    module: its import name. what: the feature that needs it. package: its name for pip, if that differs.
    """
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    name = package or module
    return [] if found else [f"{what} needs the package {name}: pip install {_INSTALL.get(module, name)}"]


def older_package_message(module: str, floor: str, what: str) -> list[str]:
    """The error message for an installed package below this version, or an empty list."""
    from packaging.version import Version

    try:
        version = importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return []
    if Version(version).release >= Version(floor).release:
        return []
    return [f"{what} needs {module} {floor} or newer; {version} is installed"]


def import_package(module: str, what: str) -> Any:
    """Import the module. Raises `ValueError` with `missing_package_message` if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        if sentence := missing_package_message(module, what):
            raise ValueError(sentence[0]) from None
        raise

"""Find the files of an encoder on this machine. Needs no torch, and downloads nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGE = "package:"


def encoder_folder(name: str, revision: str | None = None) -> Path:
    """Return the folder of `package:NAME`, of a folder, or of a Hugging Face model in the local cache.

    Raises `ValueError` with instructions when the files are missing.
    """
    if name.startswith(PACKAGE):
        return _package_folder(name)
    if (folder := Path(name)).is_dir():
        if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
            raise ValueError(
                f"encoder.name: {folder} is not a sentence encoder: modules.json and config.json are missing. "
                "Give another folder"
            )
        return folder
    return _cached_folder(name, revision)


def _package_folder(name: str) -> Path:
    module = name.removeprefix(PACKAGE).replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"encoder.name: {name}: the package is not installed. Run pip install {module.replace('_', '-')}"
        )
    root = Path(spec.submodule_search_locations[0])
    found = sorted(root.rglob("modules.json"))
    if len(found) != 1:
        raise ValueError(
            f"encoder.name: {name}: the package has {len(found)} sentence encoders, expected one. "
            "Give the encoder's folder"
        )
    return found[0].parent


def _cached_folder(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        raise ValueError(
            f"encoder.name: {name!r} is neither package:NAME, nor a folder, nor a Hugging Face model in the "
            f"local cache. For a Hugging Face model, run `hf download {name}` first"
        ) from None

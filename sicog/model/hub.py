"""Find models by their Hugging Face id in the local cache, without downloads. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def find_model(path: Path) -> Path | None:
    """The file or folder itself, or the cached snapshot of the hub model with that id; None if there is neither."""
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(str(path)):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def local_model(path: Path, key: str) -> Path:
    """As `find_model`; raises `ValueError` with the command that downloads it. key: the config's, for the message."""
    if found := find_model(path):
        return found
    if not _HUB_ID.fullmatch(str(path)):
        raise ValueError(f"{key}: {path} does not exist")
    raise ValueError(
        f"{key}: {path} is neither a file or folder nor a Hugging Face model in the local cache; for a model of the "
        f"hub, run `hf download {path}` first"
    )

"""Shared by all tests: importable helpers (`tiny`), and one tiny checkpoint for the session."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny checkpoint (read only); its parts lie in `parts/vision` and `parts/text`."""
    from tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")

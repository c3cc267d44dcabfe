"""Shared by all tests: importable helpers (`tiny`), and one tiny checkpoint for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, nor a process it starts, reads or fills the user's cache."""
    before = os.environ.get("SICOG_CACHE")
    os.environ["SICOG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("SICOG_CACHE")
    if before is not None:
        os.environ["SICOG_CACHE"] = before


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny checkpoint (read only); its parts lie in `parts/vision` and `parts/text`."""
    from tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")

"""A cache for each test, so that none finds what another has made."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache folder."""
    return tmp_path_factory.mktemp("cache")

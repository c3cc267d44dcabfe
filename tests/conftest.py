"""Shared by all tests: importable helpers (`tiny`), and one tiny checkpoint for the session."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time, so that a change is not refused for a fault that was there before it;
# `HYPOTHESIS_PROFILE=random make test` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("random")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests first: each worker takes whole files, and none should begin a long one when others end."""
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[item.path])


def pytest_collection_finish() -> None:
    """Leave the libraries, which all tests have imported by now, out of Python's garbage collections."""
    gc.collect()
    gc.freeze()


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

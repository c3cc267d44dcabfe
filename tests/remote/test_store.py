"""store.py: answers survive, in a file that needs no memory shared between machines."""

from pathlib import Path

import pytest

from sicog.remote.store import open_store


def test_no_file_of_shared_memory_appears(tmp_path: Path) -> None:
    """Write-ahead logging has one, which network disks do not share; an exclusive lock makes it unnecessary."""
    with open_store(tmp_path) as store:
        assert store.count("m") == 0
        names = {path.name for path in tmp_path.iterdir()}
        assert "answers.sqlite" in names and not any(name.endswith("-shm") for name in names)
    with pytest.raises(ValueError, match=r"answers.sqlite cannot be used"):
        (tmp_path / "answers.sqlite").write_bytes(b"no database" * 200)
        with open_store(tmp_path):
            pass

"""A half-written checkpoint is never taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sicog.training import run_checkpoints
from sicog.training.callbacks import cut_after


def save(run: Path, step: int, *, complete: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"0123456789")
    if complete:
        run_checkpoints.mark_complete(folder, processes=1)
    return folder


def test_the_newest_complete_one_is_taken(tmp_path: Path) -> None:
    save(tmp_path, 9)
    newest = save(tmp_path, 10)
    save(tmp_path, 11, complete=False)
    assert run_checkpoints.newest_complete(tmp_path) == newest
    assert run_checkpoints.newest_complete(tmp_path / "none") is None


@pytest.mark.parametrize("harm", ["cut", "missing", "marker"])
def test_a_harmed_one_is_not_complete(tmp_path: Path, harm: str) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    if harm == "cut":
        os.truncate(bad / "model.safetensors", 5)
    elif harm == "missing":
        (bad / "model.safetensors").unlink()
    else:
        (bad / run_checkpoints.MARKER).write_bytes(b"{")
    assert run_checkpoints.newest_complete(tmp_path) == good
    run_checkpoints.remove_incomplete(tmp_path)
    assert not bad.exists() and good.exists()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    folders = [save(tmp_path, step) for step in (2, 4, 10)]
    run_checkpoints.keep_newest(tmp_path, 2)
    assert [f.exists() for f in folders] == [False, True, True]
    run_checkpoints.keep_newest(tmp_path, 0)
    assert not any(f.exists() for f in folders)


def test_those_of_every_so_many_steps_stay_too(tmp_path: Path) -> None:
    folders = [save(tmp_path, step) for step in (5, 10, 12, 20, 25)]
    run_checkpoints.keep_newest(tmp_path, 1, every=10)
    assert [f.exists() for f in folders] == [False, True, False, True, True]
    run_checkpoints.keep_newest(tmp_path, 0, every=20)
    assert [f.exists() for f in folders] == [False, False, False, True, False]


def test_another_error_while_writing_is_left_as_it_is(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, complete=False)
    with pytest.raises(RuntimeError, match="shape"), run_checkpoints.save_or_clean_up(folder):
        raise RuntimeError("shape mismatch")
    refused = PermissionError(13, "Permission denied", "model.safetensors")
    with (
        pytest.raises(ValueError, match="Permission denied. No earlier checkpoint is kept"),
        run_checkpoints.save_or_clean_up(folder),
    ):
        raise refused
    assert not folder.exists()


def test_metrics_are_cut_after_the_resumed_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_after(path, 3)
    assert not path.exists()
    path.write_bytes(b'{"step":1}\n{"step":2}\n{"step":3}\n{"st')
    cut_after(path, 2)
    assert path.read_bytes() == b'{"step":1}\n{"step":2}\n'
    cut_after(path, 0)
    assert path.read_bytes() == b""

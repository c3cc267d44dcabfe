"""One process builds, the others wait; nothing half-made is ever taken for complete."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sicog.data.rows import cache as caching
from sicog.data.rows.cache import build_once, cache_folder

# Appends a line to `log` for each build, then takes a second over it.
BUILDER = """
import sys, time
from pathlib import Path
from sicog.data.rows.cache import build_once
target, log = Path(sys.argv[1]), Path(sys.argv[2])
def build(folder):
    (folder / "first").write_text("1")
    with log.open("a") as file:
        file.write("built\\n")
    time.sleep(float(sys.argv[3]))
    (folder / "second").write_text("2")
print(sorted(p.name for p in build_once(target, build, "a thing").iterdir()))
"""


def start(target: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(target), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def fill(folder: Path) -> None:
    (folder / "first").write_text("1")


def test_the_folder_is_the_one_given_or_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv("SICOG_CACHE", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x"
    monkeypatch.delenv("SICOG_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "sicog"
    monkeypatch.setenv("SICOG_CACHE", "~/y")  # `docker -e` and .env files do not write it out
    assert cache_folder() == tmp_path / "y"


def test_of_two_that_start_at_once_one_builds(tmp_path: Path) -> None:
    target, log = tmp_path / "cache" / "x", tmp_path / "log"
    processes = [start(target, log, 0.7) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert outputs == ["['first', 'second']\n"] * 2
    assert log.read_text() == "built\n"
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_a_killed_build_is_done_again(tmp_path: Path) -> None:
    target, log = tmp_path / "cache" / "x", tmp_path / "log"
    process = start(target, log, 60)
    wait_for(log)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists() and (target.parent / "x.lock").exists()
    built = build_once(target, fill, "a thing")
    assert [p.name for p in built.iterdir()] == ["first"] and [p.name for p in target.parent.iterdir()] == ["x"]


def test_an_owner_on_another_machine_is_dead_when_its_lock_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "x.lock"
    lock.write_text("elsewhere 1 abc")
    monkeypatch.setattr(caching, "_STALE_S", 0.3)
    began = time.monotonic()
    build_once(tmp_path / "x", fill, "a thing")
    assert time.monotonic() - began >= 0.3 and not lock.exists()


def test_a_lock_of_a_live_process_holds_and_the_wait_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = caching._Lock(tmp_path / "x.lock")
    assert lock.claim() and not caching._Lock(tmp_path / "x.lock").claim()
    waiting = caching._Waiting("the table", lock)
    waiting._start -= 6
    waiting.pause()
    assert "waiting for another process that makes the table" in " ".join(capsys.readouterr().err.split())


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build_once(tmp_path / "x", fail, "a thing")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_and_a_folder_without_permission_are_said(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ValueError, match="disk is full.*data.cache_dir"):
        build_once(tmp_path / "x", full, "a thing")
    assert not list(tmp_path.iterdir())

    def cut_by_numpy(folder: Path) -> None:
        raise OSError("400000 requested and 24968 written")

    with pytest.raises(ValueError, match="disk is full"):
        build_once(tmp_path / "x", cut_by_numpy, "a thing")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written .*SICOG_CACHE"):
        build_once(tmp_path / "file" / "x", fill, "a thing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        build_once(tmp_path / "x", fill, "a thing")


def test_what_a_build_may_not_read_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/rows.json")

    with pytest.raises(PermissionError, match=r"rows\.json"):
        build_once(tmp_path / "x", refused, "a thing")

"""The cache of derived data: one process builds an entry; the others wait and then share it.

The builder writes into its own folder and renames it when complete. So an existing entry is always complete, also after
kills and with several builders. The lock file only prevents duplicate work. It needs no file-system locks: its owner
touches it every few seconds, and a lock that is no longer touched is taken over.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sicog.config.paths import expand_home
from sicog.console import say

_BEAT_S = 5.0
_STALE_S = 60.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
ADVICE = "set another folder with cache_dir (data.cache_dir in training) or the variable SICOG_CACHE"


def cache_folder(given: Path | None = None) -> Path:
    """The cache folder: the given one, else $SICOG_CACHE, else ~/.cache/sicog."""
    if given is not None:
        return given
    named = os.environ.get("SICOG_CACHE")
    return expand_home(Path(named)) if named else Path.home() / ".cache" / "sicog"


def build_once(target: Path, build: Callable[[Path], None], what: str) -> Path:
    """The folder `target`, filled by `build(folder)` in one of the processes that need it, on any machine.

    Raises `ValueError` if the cache cannot be written or its disk is full, and any error of `build`. On an error all
    partial files are removed.
    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _Lock(target.with_name(f"{target.name}.lock"))
        waiting = _Waiting(what, lock)
        while not target.is_dir():
            if lock.claim():
                with lock.keep_alive():
                    if not target.is_dir():
                        _build(target, build)
            else:
                waiting.pause()
    except OSError as error:
        if error.errno in _FULL or _is_short_write(error):
            raise ValueError(f"{target.parent}: the disk is full; free some space, or {ADVICE}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST) and _is_about_cache(
            error, target
        ):
            raise ValueError(f"{target.parent} cannot be written ({error.strerror}); {ADVICE}") from error
        raise
    return target


def _build(target: Path, build: Callable[[Path], None]) -> None:
    for left in target.parent.glob(f".{target.name}.*"):  # left by a killed builder
        shutil.rmtree(left, ignore_errors=True)
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    folder.mkdir()
    try:
        build(folder)
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        folder.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was wrongly considered dead and finished first
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_short_write(error: OSError) -> bool:
    """Whether numpy wrote too few bytes; it does not pass on the system's error."""
    return error.errno is None and "requested and" in str(error)


def _is_about_cache(error: OSError, target: Path) -> bool:
    """Whether the error is about the cache and not about an input."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return bool(name) and (Path(name) in target.parents or Path(name).parent == target.parent)


class _Lock:
    """A lock file with the name of the builder. Only its existence and its fresh time stamp count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[bytes, int] | None = None
        self._since = time.monotonic()

    def claim(self) -> bool:
        """Take the lock if it is free or its owner is dead."""
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            self._release_if_dead()
            return False
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}")
        return True

    @contextmanager
    def keep_alive(self) -> Iterator[None]:
        """Touch the lock regularly, and remove it at the end."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(_BEAT_S):
                with suppress(OSError):
                    os.utime(self.path)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.path.unlink(missing_ok=True)

    def _release_if_dead(self) -> None:
        try:
            now = (self.path.read_bytes(), self.path.stat().st_mtime_ns)
        except FileNotFoundError:
            return
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        if time.monotonic() - self._since < _STALE_S and not _is_dead(now[0].decode(errors="replace")):
            return
        aside = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            if aside.read_bytes() != now[0]:  # another process took it over in between, so give it back
                with suppress(OSError):
                    os.link(aside, self.path)
            aside.unlink()


def _is_dead(owner: str) -> bool:
    """Whether the owner was a process of this machine that has ended. Other machines cannot be checked."""
    host, _, rest = owner.partition(" ")
    pid = rest.partition(" ")[0]
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it exists and belongs to another user
        return False
    return False


class _Waiting:
    """Short pauses, with a message to the user after a while."""

    def __init__(self, what: str, lock: _Lock) -> None:
        self.what, self.lock = what, lock
        self._start = time.monotonic()
        self._said = -1

    def pause(self) -> None:
        time.sleep(0.05 if time.monotonic() - self._start < 2 else 0.5)
        minutes = int((time.monotonic() - self._start + 55) // 60)  # after 5 seconds, then every minute
        if minutes > max(self._said, 0):
            self._said = minutes
            say(f"waiting for another process that makes {self.what} (lock: {self.lock.path})")

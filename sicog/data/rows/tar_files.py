"""Read files inside tar archives in place, with an index from names to places. Nothing is unpacked."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from sicog.data.rows.cache import build_once
from sicog.progress import quick_bar
from sicog.stages.provenance import digest_value

FORMAT = 1
_LARGEST = 1 << 30  # bytes of an image file; a larger one is a bomb or not an image


@dataclass(frozen=True)
class Packed:
    """A range of bytes in a larger file; `name` is for messages."""

    file: Path
    offset: int
    size: int
    name: str

    def open(self) -> IO[bytes]:
        """The bytes as a file. Raises `ValueError` if they are too large for an image, or truncated."""
        if self.size > _LARGEST:
            raise ValueError(f"{self.name}: {self.size} bytes are too large for an image")
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            data = os.pread(descriptor, self.size, self.offset)
        finally:
            os.close(descriptor)
        if len(data) != self.size:
            raise ValueError(f"{self.name}: truncated, because {self.file} ends inside it")
        stream = io.BytesIO(data)
        stream.name = self.name
        return stream


@dataclass(frozen=True)
class Member:
    """One entry of an archive; `is_file` is false for links, devices and sparse files, which are never read."""

    name: str
    offset: int
    size: int
    mtime: float
    is_file: bool


def members(path: Path) -> Iterator[Member]:
    """The entries of a .tar in order, without folders. Raises `ValueError` for other, compressed or truncated files."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep every entry
                if not entry.isdir():
                    plain = entry.isreg() and not entry.issparse()
                    yield Member(_name_as_text(_plain(entry.name)), entry.offset_data, entry.size, entry.mtime, plain)
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is no readable .tar ({error}); it may be truncated or compressed. Unpack compressed archives first"
        ) from error


def digest_tar(path: Path) -> str:
    """SHA-256 over names, sizes and times of all members and the content of .json members. Images are not read."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        for member in members(path):
            sha.update(f"{member.name}\0{member.size}\0{member.mtime}\0{member.is_file}\0".encode())
            if member.is_file and member.name.endswith(".json"):
                file.seek(member.offset)
                sha.update(file.read(member.size))
    return sha.hexdigest()


def tar_identity(tars: Sequence[Path]) -> list[list[str | int]]:
    """The identity of the files: path, size and time of each."""
    stats = [(path.resolve(), path.stat()) for path in tars]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


class TarIndex:
    """Index of names over one or more tars, built once and then mapped. The last of equal names counts."""

    def __init__(self, tars: Sequence[Path], cache: Path) -> None:
        self.tars = tuple(path.resolve() for path in tars)
        key = digest_value([FORMAT, tar_identity(self.tars)])
        what = f"the index of {self.tars[0]}" + (f" and {len(tars) - 1} more" if len(tars) > 1 else "")
        self.folder = build_once(cache / "tars" / key, self._build, what)
        self._open()

    def find(self, name: str) -> Packed | None:
        """The bytes of a name, or None."""
        first, second = _hash_name(_plain(name))
        at = int(np.searchsorted(self._names, first, side="right")) - 1
        while at >= 0 and self._names[at] == first:
            if self._checks[at] == second:
                tar, offset, size = (int(v) for v in self._places[at])
                return Packed(self.tars[tar], offset, size, f"{self.tars[tar]}:{name}")
            at -= 1
        return None

    def __getstate__(self) -> dict[str, object]:
        return {"tars": self.tars, "folder": self.folder}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._names, self._checks, self._places = (
            np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ("names", "checks", "places")
        )

    def _build(self, folder: Path) -> None:
        hashes, places = [], []
        with quick_bar("indexing tars") as bar:
            for number, path in enumerate(self.tars):
                found = [(_hash_name(m.name), (number, m.offset, m.size)) for m in members(path) if m.is_file]
                hashes.append(np.array([h for h, _ in found], dtype=np.uint64).reshape(-1, 2))
                places.append(np.array([p for _, p in found], dtype=np.int64).reshape(-1, 3))
                bar.add(len(found))
        all_hashes, all_places = np.concatenate(hashes), np.concatenate(places)
        order = np.argsort(all_hashes[:, 0], kind="stable")
        np.save(folder / "names.npy", all_hashes[order, 0])
        np.save(folder / "checks.npy", all_hashes[order, 1])
        np.save(folder / "places.npy", all_places[order])


def _name_as_text(name: str) -> str:
    """The name with replacement characters for bytes that are not UTF-8, because records hold only UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _plain(name: str) -> str:
    return str(PurePosixPath(name))


def _hash_name(name: str) -> tuple[np.uint64, np.uint64]:
    digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).digest()
    first, second = np.frombuffer(digest, dtype=np.uint64)
    return first, second

"""Read every image of the rows once, in a stage of its own; cache its SHA-256 and its hash.

The cache key is the image folder and the image names. Cached files are not read again. Only unusable files are checked:
when one of them has changed, the stage runs again.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from pydantic import Field

from sicog.config import Config
from sicog.curation.numbered_rows import Rows
from sicog.curation.overlap.clusters import Numbers
from sicog.curation.overlap.image_hash import WORDS, image_hash
from sicog.curation.overlap.marks import RowMarks, images_of
from sicog.curation.words import Hashes, digest64
from sicog.data.image_folder import ImageFolder, Readable
from sicog.data.images import ImageProblem
from sicog.data.rows.tar_files import Packed
from sicog.model.image_files import load_image
from sicog.records import Dropped, Record
from sicog.stages.config import StageOptions
from sicog.stages.provenance import digest_bytes, digest_value
from sicog.stages.runner import Stage, run_stage
from sicog.stages.storage import is_finished, read_json, read_records, write_json

FORMAT = 1
STEP = "images"
_PROBLEMS = "problems.json"
_LARGEST = 1 << 30  # bytes of an image file; a larger file is a bomb or not an image


class ImageName(Record):
    """An image of the rows; the id is its name."""


class ImageMarks(Record):
    """Fingerprint of an image: SHA-256 of its file, and its hash in hex ("" for an image of a single colour)."""

    sha256: str
    hash: str = Field(max_length=16 * WORDS)


class _Stage(Config):
    volatile: ClassVar[frozenset[str]] = frozenset()
    format: int = FORMAT
    names: str


@dataclass(frozen=True)
class Pictures:
    """All M images of the rows, by digest of their name, ascending.

    identity: int64 [M], equal for files of equal content. hashes: uint64 [M, WORDS], and bool [M]: whether it has one.
    sha256: uint8 [M, 32]. problems: reason and detail of unusable images, by number.
    """

    names: Hashes
    identity: Numbers
    hashes: Hashes
    has_hash: np.ndarray
    sha256: np.ndarray
    problems: dict[int, tuple[str, str]]

    def numbers(self, digests_I: Hashes) -> Numbers:
        """Return int64 [I]: the images with these names."""
        return np.searchsorted(self.names, digests_I).astype(np.int64)

    def sha256_of(self, name: str) -> str | None:
        """Return the digest of an image's file in hex; None when files were not read."""
        if not len(self.sha256):
            return None
        return bytes(self.sha256[int(np.searchsorted(self.names, np.uint64(digest64(name))))]).hex()


def pictures_by_name(marks: RowMarks) -> Pictures:
    """Return the images without reading files: their identity is their name."""
    names = np.unique(marks.images)
    return _pictures(names, with_files=False)


def look_at_images(sources: Sequence[Rows], marks: RowMarks, images: ImageFolder, workers: int) -> Pictures:
    """Read all images in `workers` processes; resumes, and uses the cache."""
    names, first = np.unique(marks.images, return_index=True)
    pictures = _pictures(names, with_files=True)
    if len(names):
        folder = _hash_images(_Names(sources, marks.owners()[first], names), images, workers)
        for row in read_records(folder, ImageMarks):
            number = int(np.searchsorted(names, np.uint64(digest64(row.id))))
            pictures.sha256[number] = np.frombuffer(bytes.fromhex(row.sha256), dtype=np.uint8)
            if row.hash:
                pictures.hashes[number] = np.frombuffer(bytes.fromhex(row.hash), dtype="<u8")
                pictures.has_hash[number] = True
        for drop in _dropped_images(folder):
            number = int(np.searchsorted(names, np.uint64(digest64(drop.id))))
            pictures.problems[number] = (drop.reason, drop.detail)
        pictures.identity[:] = np.unique(pictures.sha256.view("<u8")[:, 0], return_inverse=True)[1]
    return pictures


def _pictures(names: Hashes, *, with_files: bool) -> Pictures:
    n = len(names)
    hashes, sha256 = np.zeros((n, WORDS), np.uint64), np.zeros((n if with_files else 0, 32), np.uint8)
    return Pictures(names, np.arange(n, dtype=np.int64), hashes, np.zeros(n, bool), sha256, {})


def _hash_images(names: _Names, images: ImageFolder, workers: int) -> Path:
    asked = digest_bytes(names.digests.astype("<u8").tobytes())
    key = digest_value([FORMAT, asked, images.identity()])
    while True:
        folder = images.cache / "image-hashes" / key
        if not is_finished(folder):
            run_stage(
                Stage(
                    step=STEP,
                    out_dir=folder,
                    source=names,
                    process=_LookAt(images),
                    inputs={},
                ),
                _Stage(names=asked),
                StageOptions(rows_per_shard=4096, workers=workers, max_dropped_share=None),
            )
        states = {drop.id: images.state(drop.id) for drop in _dropped_images(folder)}
        if not (folder / _PROBLEMS).is_file():
            write_json(folder / _PROBLEMS, states)
        if read_json(folder / _PROBLEMS) == states:
            return folder
        key = digest_value([key, states])


def _dropped_images(folder: Path) -> Iterator[Dropped]:
    with (folder / "dropped.jsonl").open("rb") as file:
        yield from map(Dropped.model_validate_json, file)


@dataclass
class _Names:
    """The names of all images; each is read from the first row that has it."""

    sources: Sequence[Rows]
    rows: Numbers  # over all sources
    digests: Hashes
    _starts: Numbers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *(len(source) for source in self.sources)])

    def __len__(self) -> int:
        return len(self.digests)

    def read(self, start: int, stop: int) -> Iterator[ImageName]:
        """Images start..stop."""
        for row, digest in zip(self.rows[start:stop].tolist(), self.digests[start:stop].tolist(), strict=True):
            source = int(np.searchsorted(self._starts, row, side="right")) - 1
            record = next(iter(self.sources[source].read([row - int(self._starts[source])])))
            yield ImageName(id=next(name for name in images_of(record) if digest64(name) == digest))


@dataclass
class _LookAt:
    """Process of the stage."""

    images: ImageFolder

    def __call__(self, block: Sequence[ImageName]) -> list[tuple[ImageMarks] | Dropped]:
        return [self._one(name.id) for name in block]

    def _one(self, name: str) -> tuple[ImageMarks] | Dropped:
        try:
            with _stream(self.images.find(name)) as stream:
                sha256 = hashlib.sha256(stream.getbuffer()).hexdigest()
                found = image_hash(load_image(stream))
        except ImageProblem as problem:
            return Dropped(id=name, step=STEP, reason=problem.reason, detail=str(problem))
        except (ValueError, OSError) as error:
            return Dropped(id=name, step=STEP, reason="image_broken", detail=f"{name}: {error}")
        return (ImageMarks(id=name, sha256=sha256, hash="" if found is None else found.astype("<u8").tobytes().hex()),)


def _stream(found: Readable) -> io.BytesIO:
    """Return the file's bytes, with its name for messages."""
    if isinstance(found, Packed):
        opened: IO[bytes] = found.open()
        assert isinstance(opened, io.BytesIO)
        return opened
    if (size := found.stat().st_size) > _LARGEST:
        raise ImageProblem("image_broken", f"{found}: {size} bytes are too many for an image")
    if not size:
        raise ImageProblem("image_broken", f"{found}: the image file is empty")
    stream: Any = io.BytesIO(found.read_bytes())
    stream.name = str(found)
    assert isinstance(stream, io.BytesIO)
    return stream

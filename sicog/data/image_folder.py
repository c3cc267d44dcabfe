"""Find the images of rows: files of a folder, members of its tars or of one tar, or bytes in the table itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO

from PIL import Image

from sicog.data.images import ImageProblem, check_name, require_folder, resolve_image
from sicog.data.rows.sources import NAMED, PlacedRow
from sicog.data.rows.table import RowTable
from sicog.data.rows.tar_files import Packed, TarIndex, tar_identity
from sicog.model.image_files import image_size, load_image

Size = tuple[int, int]
Readable = Path | Packed


class ImageFolder:
    """Images by name. folder: a folder, which may contain tars at its top level, or a .tar; None: no named images.

    A name refers to a file under the folder or, if there is none, to the tar member with that name.
    check: `decode` reads an image fully to get its size, `header` only its header. Raises `ValueError` if the folder
    does not exist.
    """

    def __init__(self, folder: Path | None, roots: Sequence[Path] = (), *, check: str = "decode", cache: Path) -> None:
        if folder is not None:
            require_folder(folder, "image_folder")
        self.folder = folder
        self.roots = tuple(roots)
        self._resolved = folder.resolve() if folder is not None else None
        self.check = check
        self.cache = cache
        self.tars: list[Path] = []
        if folder is not None and folder.is_file():
            self.tars = [folder]
        elif folder is not None and folder.is_dir():
            self.tars = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".tar" and not p.name.startswith("."))

    def identity(self) -> list[object]:
        """The identity of the folder: paths, and size and time of its tars. Its files are not checked."""
        folder = str(self.folder and self.folder.resolve())
        return [folder, [str(root.resolve()) for root in self.roots], tar_identity(self.tars)]

    @cached_property
    def _index(self) -> TarIndex:
        """Built when a name is not a file, so that unrelated tars in the folder are not read."""
        return TarIndex(self.tars, self.cache)

    def find(self, name: str) -> Readable:
        """The place of an image. Raises `ImageProblem`."""
        if self.folder is None:
            raise ImageProblem("image_missing", f"{name!r}: rows have images, but data.image_folder is not set")
        try:
            if self.tars == [self.folder]:
                check_name(self.folder, name)
                raise ImageProblem("image_missing", f"{self.folder} has no file {name!r}")
            return resolve_image(self.folder, name, self.roots, resolved=self._resolved)
        except ImageProblem as problem:
            if problem.reason == "image_missing" and self.tars and (found := self._index.find(name)):
                return found
            raise

    def state(self, name: str) -> list[int] | str:
        """A fingerprint of an image file (size and time, or the problem), to detect that it was replaced."""
        try:
            found = self.find(name)
        except ImageProblem as problem:
            return problem.reason
        if isinstance(found, Packed):
            return [found.offset, found.size]
        stat = found.stat()
        return [stat.st_size, stat.st_mtime_ns]

    def measure(self, found: Readable) -> Size:
        """The (width, height) of an image as shown. Raises `ImageProblem` if it is broken."""
        try:
            source = open_image_source(found)
            return image_size(source) if self.check == "header" else load_image(source).size
        except ValueError as error:
            raise ImageProblem("image_broken", str(error)) from error


def open_image_source(found: Readable) -> Path | IO[bytes]:
    """The argument of `load_image` for an image: its path, or its bytes as a file."""
    return found.open() if isinstance(found, Packed) else found


def image_references(table: RowTable, row: PlacedRow) -> list[str | Packed]:
    """The images of a row in order: names for an `ImageFolder`, or bytes that came with the row."""
    example, places = row
    return [
        table.packed_image(name, place) or name
        for name, place in zip(example.images, places or (NAMED,) * len(example.images), strict=True)
    ]


def named_images(row: PlacedRow) -> list[str]:
    """The names of a row's images in an `ImageFolder`."""
    example, places = row
    return [name for k, name in enumerate(example.images) if not places or places[k] == NAMED]


def load_images(table: RowTable, row: PlacedRow, images: ImageFolder) -> list[Image.Image]:
    """The decoded images of a row. Raises `ValueError`."""
    found = (images.find(image) if isinstance(image, str) else image for image in image_references(table, row))
    return [load_image(open_image_source(image)) for image in found]

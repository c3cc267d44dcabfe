"""Read vectors that were made elsewhere from files, by text or by its digest.

Input is a file, or a folder of files, in one of two formats. Both have each text once, as the text itself or as its
digest, the SHA-256 of its UTF-8 in hex:

    .parquet   columns `text` or `digest`, and `vector` (a list of numbers)
    .npz       arrays `texts` or `digests` (of strings), and `vectors` (numbers, [N, D])

All are brought into the cache's form once, as one folder. Where vectors are missing, the texts to embed are written
beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from sicog.curation.vectors.vector_cache import (
    DIGEST,
    Embedding,
    VectorCache,
    shortened_text,
    text_digest,
    unit_vectors,
)
from sicog.data.rows.cache import build_once
from sicog.stages.provenance import digest_path, digest_value
from sicog.stages.storage import atomic_write

Block = tuple[bytes, NDArray[Any]]  # concatenated digests of N texts, and their vectors [N, D]
_SUFFIXES = (".parquet", ".npz")
_ROWS = 1024
_PARTS, _CHUNK = 16, 65_536
_GIVEN = "given"  # the one folder of the cache


class FileVectors:
    """Vectors of a file or folder. `embed` raises an error for a text without a vector.

    folder: where caches lie.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, files = path, _files(path)
        self.digest = digest_path(path)
        self.folder, self.cache = folder, VectorCache(folder / digest_value(["file", self.digest])[:32])
        build_once(self.cache.folder / _GIVEN, lambda to: _convert_files(files, to), f"those of {path}")

    @property
    def description(self) -> str:
        """Return name and digest of the file. Do not compare scores of different descriptions."""
        return f"file:{self.path.name}@{self.digest[:12]}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, float32 [N, D], in order. Raises `ValueError` with the text that has no vector."""
        rows_N = self.cache.rows_of(_GIVEN, texts)
        if (missing_N := rows_N < 0).any():
            text = texts[int(missing_N.argmax())]
            raise ValueError(f"{self.path} has no vector for the text {shortened_text(text)}. Add it to the file")
        return np.array(self.cache.vectors(_GIVEN)[rows_N])

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Return the texts without a vector."""
        rows = self.cache.rows_of(_GIVEN, texts).tolist()
        return [text for text, row in zip(texts, rows, strict=True) if row < 0]


class _MissingTexts:
    """Stand-in for an embedder that writes the texts without a vector, each once."""

    description = ""

    def __init__(self, vectors: FileVectors, to: IO[bytes]) -> None:
        self.vectors, self.to = vectors, to
        self.first = ""
        self.seen: set[bytes] = set()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return dummy vectors and write the texts without a vector."""
        for text in self.vectors.missing(texts):
            if (digest := text_digest(text)) not in self.seen:
                self.seen.add(digest)
                self.first = self.first or text
                self.to.write(orjson.dumps({"text": text}) + b"\n")
        return np.ones((len(texts), 1), dtype=np.float32)


def require_vectors(vectors: FileVectors, ask: Callable[[Embedding], None]) -> None:
    """Raise `ValueError` when a text has no vector, and write all such texts to a file.

    ask: passes all texts to an embedder.
    """
    path = vectors.folder / f"missing-{vectors.digest[:12]}.jsonl"
    with atomic_write(path) as file:
        ask(missing := _MissingTexts(vectors, file))
    if not missing.seen:
        path.unlink()
        return
    raise ValueError(
        f"{vectors.path} has no vectors for {len(missing.seen)} texts, such as {shortened_text(missing.first)}. "
        f"Embed the texts in {path} and add their vectors"
    )


def _files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.suffix in _SUFFIXES)
    if not found or any(p.suffix not in _SUFFIXES for p in found):
        raise ValueError(
            f"encoder.path: {path} is not a .parquet or .npz file of vectors, nor a folder of such files. "
            "Correct the path"
        )
    return found


def _convert_files(files: Sequence[Path], folder: Path) -> None:
    """Write a folder of the cache, in the order of the files."""
    n, width, total = 0, 0, sum(map(_count, files))
    with (folder / "vectors.npy").open("wb") as to, (folder / "digests.npy").open("wb") as digests:
        _write_header(digests, DIGEST, (total,))
        for file in files:
            for some, vectors_ND in _blocks(file):
                if not n:
                    width = vectors_ND.shape[1]
                    _write_header(to, np.dtype(np.float32), (total, width))
                if len(some) != DIGEST.itemsize * len(vectors_ND) or vectors_ND.shape[1] != width:
                    raise ValueError(
                        f"{file}: the numbers of texts and vectors differ, or vectors have different lengths. "
                        "Write the file again"
                    )
                to.write(unit_vectors(vectors_ND, f"row {{}} of {file}".format).tobytes())
                digests.write(some)
                n += len(vectors_ND)
    if not n:
        raise ValueError(f"{files[0]} has no vectors. Give a file with vectors")
    np.save(folder / "cut.npy", np.zeros(n, dtype=np.bool_))
    with (folder / "order.npy").open("wb") as order:
        _write_header(order, np.dtype(np.int64), (n,))
        twice = _write_order(np.load(folder / "digests.npy", mmap_mode="r"), order)
    if twice is not None:
        raise ValueError(
            f"{files[0].parent}: row {twice} of the vectors has the same text as another row. Remove one of them"
        )


def _write_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})


def _write_order(digests_N: NDArray[np.bytes_], to: BinaryIO) -> int | None:
    """Write the rows in the order of their digests; returns a row whose digest another row has too.

    By parts, those of equal first bits, so that memory holds one of them.
    """
    for part in range(_PARTS):
        rows_P = np.concatenate(list(_digests_of_part(digests_N, part)))
        _, first = np.unique(digests_N[rows_P], return_index=True)
        if len(first) < len(rows_P):
            return int(np.setdiff1d(rows_P, rows_P[first])[0])
        to.write(rows_P[first].tobytes())
    return None


def _digests_of_part(digests_N: NDArray[np.bytes_], part: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(digests_N), _CHUNK):
        first_bytes = digests_N[start : start + _CHUNK].view(np.uint8)[:: DIGEST.itemsize]
        yield start + np.flatnonzero(first_bytes // (256 // _PARTS) == part)


def _count(file: Path) -> int:
    if file.suffix == ".npz":
        return len(_npz(file)["vectors"])
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)


def _blocks(file: Path) -> Iterator[Block]:
    if file.suffix == ".npz":
        arrays = _npz(file)
        name = _key_column(file, list(arrays), "texts", "digests")
        yield _digests(file, name, arrays[name].tolist()), arrays["vectors"]
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, pre_buffer=False) as table:
        name = _key_column(file, table.schema_arrow.names, "text", "digest")
        if "vector" not in table.schema_arrow.names:
            raise ValueError(f"{file}: the column `vector` is missing. Add it")
        for batch in table.iter_batches(_ROWS, columns=[name, "vector"], use_threads=False):
            flat = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
            if (
                len(flat) % len(batch)
                or (batch.column("vector").value_lengths().to_numpy() != len(flat) // len(batch)).any()
            ):
                raise ValueError(f"{file}: vectors have different lengths. Write them with one encoder")
            yield _digests(file, name, batch.column(name).to_pylist()), flat.reshape(len(batch), -1)


def _npz(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read as .npz ({error})") from None
    if getattr(found.get("vectors"), "ndim", 0) != 2:
        raise ValueError(f"{file}: the array `vectors` of shape [texts, width] is missing. Add it")
    return found


def _key_column(file: Path, names: Sequence[str], text: str, digest: str) -> str:
    for name in (text, digest):
        if name in names:
            return name
    raise ValueError(f"{file}: `{text}` and `{digest}` are both missing. Add one of them to name the texts")


def _digests(file: Path, name: str, values: Sequence[Any]) -> bytes:
    try:
        if name.startswith("text"):
            return b"".join(map(text_digest, values))
        hexes = [value.decode() if isinstance(value, bytes) else value for value in values]
        if any(len(one) != 64 for one in hexes):
            raise ValueError("not 64 digits")
        return b"".join(bytes.fromhex(one)[: DIGEST.itemsize] for one in hexes)
    except (ValueError, AttributeError, TypeError):
        what = "texts" if name.startswith("text") else "SHA-256 digests in hex"
        raise ValueError(f"{file}: `{name}` must have {what} in every row. Correct the file") from None

"""The tensors of a checkpoint on disk: list them without reading values, copy them under other names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sicog.model.weights import UNREADABLE, join_names, read_error_message
from sicog.stages.storage import make_readable, read_json, write_json

_SHARD_BYTES = 5_000_000_000
_DTYPES = {  # names of safetensors
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = (("model", "safetensors"), ("pytorch_model", "bin"))  # the first kind in the folder is read


@dataclass(frozen=True)
class Stored:
    """The place of a tensor on disk: its file, its name there, its shape and dtype; not its values."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        """The size of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder, from its safetensors files or else its .bin files.

    Raises `ValueError` if there are none, a shard of the index is missing, a file is damaged, or a name occurs twice.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        for stored in tensors_of(file):
            if stored.name in found:
                raise ValueError(f"{stored.name} is in {found[stored.name].file} and in {file}. Remove one of them")
            found[stored.name] = stored
    return found


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, or []. Raises `ValueError` if a file in its index is missing."""
    for stem, suffix in _NAMES:
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            files = [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
            if absent := [file.name for file in files if not file.is_file()]:
                raise ValueError(f"{folder} is incomplete: {len(absent)} shards are missing: {', '.join(absent)}")
            return files
        if (single := folder / f"{stem}.{suffix}").is_file():
            return [single]
    return []


def tensors_of(file: Path) -> list[Stored]:
    """The tensors of one file. Executes nothing. Raises `ValueError` if it is damaged or holds other objects."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
                kinds = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
            if odd := [f"{name} is {dtype}" for name, (_, dtype) in kinds.items() if dtype not in _DTYPES]:
                raise ValueError(f"{file}: unknown dtype: {odd[0]}; known: {', '.join(_DTYPES)}")
            return [Stored(file, name, shape, _DTYPES[dtype]) for name, (shape, dtype) in kinds.items()]
        return [Stored(file, name, tuple(v.shape), v.dtype) for name, v in _bin_table(file).items()]
    except UNREADABLE as error:
        raise ValueError(f"{file}: {read_error_message(error)}") from error


def load_tensor(stored: Stored) -> torch.Tensor:
    """The values of one tensor, in their dtype."""
    with _open_tensors(stored.file) as get:
        return get(stored.name)


def check_tensors(
    where: Path,
    found: Mapping[str, Stored],
    expected: Mapping[str, Sequence[int]],
    optional: Iterable[str] = (),
    *,
    of: str = "its config.json",
) -> None:
    """Raise `ValueError` with all unknown, missing or misshapen tensors; `optional` ones may be missing."""
    unknown = sorted(found.keys() - expected.keys())
    missing = sorted(expected.keys() - found.keys() - set(optional))
    misshapen = [
        f"{name}: {found[name].shape} instead of {tuple(expected[name])}"
        for name in sorted(found.keys() & expected.keys())
        if found[name].shape != tuple(expected[name])
    ]
    kinds = (("unknown", unknown), ("missing", missing), ("of another shape", misshapen))
    if problems := [f"{len(names)} {kind}: {join_names(names)}" for kind, names in kinds if names]:
        raise ValueError(f"{where}: its {len(found)} tensors are not those of {of}; {'; '.join(problems)}")


def copy_tensors(renamed: Mapping[str, Stored], folder: Path, *, shard_bytes: int = _SHARD_BYTES) -> None:
    """Write the tensors under the given names, byte for byte, as safetensors shards with an index.

    One shard is in memory at a time. A tensor larger than `shard_bytes` gets its own shard.
    """
    shards = _plan_shards(renamed, shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        values = {}
        for file, names in groupby(shard, key=lambda new: renamed[new].file):
            with _open_tensors(file) as get:
                values.update({new: get(renamed[new].name) for new in names})
        save_file(values, folder / name, metadata={"format": "pt"})
        make_readable(folder / name)
        weight_map.update(dict.fromkeys(shard, name))
    if len(shards) > 1:
        total = sum(stored.n_bytes for stored in renamed.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _plan_shards(renamed: Mapping[str, Stored], shard_bytes: int) -> list[list[str]]:
    """The new names of each shard, ordered by source file, so that each file is opened rarely."""
    shards: list[list[str]] = [[]]
    size = 0
    for new, stored in sorted(renamed.items(), key=lambda item: (str(item[1].file), item[0])):
        if shards[-1] and size + stored.n_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(new)
        size += stored.n_bytes
    return shards


@contextmanager
def _open_tensors(file: Path) -> Iterator[Callable[[str], torch.Tensor]]:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            yield opened.get_tensor
        return
    table = _bin_table(file)
    # Copy: tensors of a .bin file may share memory or be views, which safetensors refuses.
    yield lambda name: table[name].clone(memory_format=torch.contiguous_format)


def _bin_table(file: Path) -> dict[str, torch.Tensor]:
    """The table of a .bin file. Values are read on use (at once for files older than torch 1.6)."""
    try:
        table = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        table = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(table, dict) or not all(isinstance(value, torch.Tensor) for value in table.values()):
        raise ValueError(f"{file} does not hold a table of tensors")
    return table

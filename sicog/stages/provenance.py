"""Where an output comes from: run.json with the step, its resolved config, versions, and digests of its inputs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from sicog.config import Config
from sicog.config.paths import as_utf8
from sicog.stages.storage import MANIFEST, is_locked, read_json, write_json
from sicog.version import __version__

RUN = "run.json"
_LOCKS = frozenset({"lock", ".lock"})
# What a stage writes before its first block, and a training before its first checkpoint.
_OF_A_START = _LOCKS | {RUN, "stage.json", "dropped.jsonl", "failed.jsonl", "metrics.jsonl", "speed.jsonl", "plan.json"}
log = logging.getLogger(__name__)
_LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "numpy",
    "pillow",
    "sentence-transformers",
)


def digest_bytes(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_value(value: Any) -> str:
    """SHA-256 of a value as canonical JSON."""
    return digest_bytes(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS))


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_path(path: Path, of_file: Callable[[Path], str] = digest_file) -> str:
    """The digest of an input: a file's content, or a folder's files at its top level (names and contents).

    of_file: how a file is digested, where that may be remembered.

    A folder whose manifest lists the digests of its files is known by the manifest alone, so that a large dataset
    is not read again. run.json and hidden files are left out: they say how something was made, not what it is.
    Raises `ValueError` when the path does not exist.
    """
    if path.is_file():
        return of_file(path)
    if not path.is_dir():
        raise ValueError(f"{path} does not exist")
    manifest = path / MANIFEST
    if manifest.is_file() and "files" in (content := read_json(manifest)):
        return digest_value(content["files"])
    files = [p for p in sorted(path.iterdir()) if p.is_file() and p.name != RUN and not p.name.startswith(".")]
    return digest_value({as_utf8(p.name): of_file(p) for p in files})


def versions() -> dict[str, str]:
    """Versions of Python, sicog and the libraries that results depend on (those that are installed)."""
    found = {"python": platform.python_version(), "sicog": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_output(
    *, step: str, config: Config, inputs: Mapping[str, Path], of_file: Callable[[Path], str] = digest_file
) -> dict[str, Any]:
    """What an output folder belongs to: the step, the identity of its config, and the digests of its inputs."""
    digests = {name: digest_path(Path(path), of_file) for name, path in sorted(inputs.items())}
    return {"step": step, "identity": config.identity(), "inputs": digests}


def identity_differences(run: Mapping[str, Any], config: Config) -> list[str]:
    """In what the identity of a config differs from that of a run.json; inputs are not looked at."""
    return _differences(run.get("identity"), config.identity())


def write_manifest(folder: Path, step: str, names: Iterable[str], **counts: Any) -> None:
    """Finish a step's folder: write its manifest, with the digests of these files."""
    write_json(folder / MANIFEST, {"step": step, **counts, "files": {n: digest_file(folder / n) for n in names}})


def is_claimed(folder: Path, description: Mapping[str, Any]) -> bool:
    """Whether the folder belongs to what `describe_output` returns."""
    return (folder / RUN).is_file() and not _differences_from(folder, description)


def write_run_json(
    folder: Path,
    *,
    step: str,
    config: Config,
    inputs: Mapping[str, Path],
    of_file: Callable[[Path], str] = digest_file,
) -> None:
    """Claim an output folder for this step, config and inputs; a folder that holds work of another one is refused.

    A folder in which another start was refused before it made anything belongs to nobody, and is taken over.
    Raises `ValueError` naming what differs, so that nothing of another run is overwritten.
    """
    description = describe_output(step=step, config=config, inputs=inputs, of_file=of_file)
    if (folder / RUN).is_file():
        differences = _differences_from(folder, description)
        if not differences:
            return
        if not has_no_work(folder):
            raise ValueError(other_run_message(folder, differences))
        _take_over(folder, differences)
    elif holds_unknown_files(folder):
        raise ValueError(f"{folder} is not empty and holds no {RUN}; choose another output folder")
    paths = {name: str(path) for name, path in sorted(inputs.items())}
    resolved = config.model_dump(mode="json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN, {**description, "config": resolved, "input_paths": paths, "versions": versions()})
    except OSError as error:
        raise ValueError(f"cannot write to the output folder {folder}: {error.strerror or error}") from error


def note_seconds(folder: Path, seconds: float) -> None:
    """Add to run.json how long the step took, which is another time each time and part of no identity."""
    write_json(folder / RUN, read_json(folder / RUN) | {"seconds": round(seconds, 1)})


def has_no_work(folder: Path) -> bool:
    """Whether all that lies in an output folder is what a start writes before its first work is done.

    A checkpoint, a finished block or any file that is not known here makes the folder its run's.
    """
    return not any(_is_work(path, path.relative_to(folder).parts) for path in _files(folder))


def _is_work(path: Path, inside: tuple[str, ...]) -> bool:
    """inside: the parts of its path below the output folder, whose own name says nothing."""
    if path.parent.name == ".work" and path.name.startswith("journal-"):
        return path.stat().st_size > 0  # a line for each finished block
    of_a_block = (".work", "parts") in zip(inside, inside[1:], strict=False)
    name = path.name[1:-4] if path.name.startswith(".") and path.name.endswith(".tmp") else path.name  # being written
    return not (name in _OF_A_START or path.parent.name == "tensorboard" or of_a_block)


def other_run_message(folder: Path, differences: list[str]) -> str:
    """The sentence for a folder that is not ours to write."""
    shown = "; ".join(differences[:5])
    return f"{folder} belongs to another run ({shown}); choose another output folder, or remove this one"


def holds_unknown_files(folder: Path) -> bool:
    """Whether a folder without a run.json holds files of which nobody knows what made them."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _take_over(folder: Path, differences: list[str]) -> None:
    """Remove what a refused start has left. Raises `ValueError` where it is still at work."""
    if any(is_locked(path) for path in _files(folder) if path.name in _LOCKS):
        raise ValueError(f"{folder} is being written by another process; wait for it to end, or stop it")
    for path in _files(folder):
        path.unlink(missing_ok=True)  # other processes of the same start may be at it too
    log.warning("%s held only a start that did no work (%s); it begins anew", folder, "; ".join(differences[:5]))


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _differences_from(folder: Path, description: Mapping[str, Any]) -> list[str]:
    before = read_json(folder / RUN)
    return _differences({k: before.get(k) for k in description}, dict(description))


def _differences(before: Any, after: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [d for k in keys for d in _differences(before.get(k), after.get(k), f"{where}.{k}".lstrip("."))]
    if before == after:
        return []
    return [f"{where.removeprefix('identity.')} was {_short(before)}, now {_short(after)}"]


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else text[:37] + "..."

"""Typed configuration: one YAML file plus `a.b=value` overrides make a frozen pydantic model."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from sicog.config.keys import members
from sicog.config.paths import as_utf8, expand_home
from sicog.config.validation import validation_message
from sicog.console import say


class Config(BaseModel):
    """Base of every config: frozen, complete, typed, and closed to unknown keys.

    `identity` leaves out fields of type `Path` and those in `volatile`, because they do not change the result.
    The content of a path counts through the digests of the step's inputs.
    also: other names of keys, mapped to the keys. A nested key can so be given by its name in most other configs.
    formerly: old names of keys, mapped to the new ones. They still work, and a message gives the new name.
    Only the key itself is recorded.
    added: keys that an earlier version did not have. With its default such a key is not in `identity`, so that work
    which that version finished counts as finished.
    last: keys that the help lists after all others.
    of_rows: the keys that name rows: a file or folder of any kind in `sicog.data.rows.file_kinds`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, use_attribute_docstrings=True
    )
    volatile: ClassVar[frozenset[str]] = frozenset({"workers"})
    also: ClassVar[Mapping[str, str]] = {}
    formerly: ClassVar[Mapping[str, str]] = {}
    added: ClassVar[frozenset[str]] = frozenset()
    last: ClassVar[tuple[str, ...]] = ()
    of_rows: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def other_names(cls) -> dict[str, str]:
        """All other names of keys, old ones included, mapped to the keys."""
        return {**cls.also, **cls.formerly}

    @model_validator(mode="before")
    @classmethod
    def _resolve_keys(cls, values: Any) -> Any:
        return resolve_key_names(cls.other_names(), values) if isinstance(values, Mapping) else values

    @field_validator("*", mode="after")
    @classmethod
    def _expand_home_and_check_numbers(cls, value: Any) -> Any:
        """Expand `~`. Refuse numbers that run.json cannot hold."""
        for number in _numbers(value):
            if isinstance(number, int) and not -(2**63) <= number < 2**63:
                raise ValueError("must be a number of at most 64 bits")
            if not math.isfinite(number):
                raise ValueError("holds a number that is not finite")
        return _expand_homes(value)

    def identity(self) -> dict[str, Any]:
        """The values that decide the output, ready for JSON: all except paths and volatile ones."""
        return _without_paths(self)

    def with_resolved_auto(self, processes: int = 1) -> Self:
        """The config for run.json: each `auto` is replaced by its value on this machine with this many processes."""
        return self

    @property
    def takes_array(self) -> bool:
        """Whether a recipe on SLURM gives the work to an array of jobs, by `launch`."""
        return "launch" in type(self).model_fields

    def problems(self, processes: int = 1) -> list[str]:
        """Messages about everything except missing files that would stop a start with this many processes.

        It takes under a second: nothing is loaded or written. The default collects the problems of nested configs.
        `row_paths` are checked elsewhere, because earlier steps of a recipe write some of them.
        """
        return [problem for config in self._nested_configs() for problem in config.problems()]

    def row_paths(self) -> list[Path]:
        """The paths under the keys of `of_rows`, here and in nested configs."""
        return [getattr(self, key) for key in self.of_rows] + [
            p for inner in self._nested_configs() for p in inner.row_paths()
        ]

    def _nested_configs(self) -> Iterator[Config]:
        return _configs(getattr(self, name) for name in type(self).model_fields)


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def _numbers(value: Any) -> Iterator[int | float]:
    """All numbers in a value, nested ones included."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, Mapping):
        yield from (number for item in value.values() for number in _numbers(item))
    elif isinstance(value, (list, tuple)):
        yield from (number for item in value for number in _numbers(item))


def _expand_homes(value: Any) -> Any:
    if isinstance(value, Path):
        if as_utf8(str(value)) != str(value):
            raise ValueError(f"the name {as_utf8(str(value))} is not UTF-8, so run.json cannot hold it; rename it")
        return expand_home(value)
    if isinstance(value, tuple) and any(isinstance(v, (Path, tuple)) for v in value):
        return tuple(map(_expand_homes, value))
    return {k: _expand_homes(v) for k, v in value.items()} if isinstance(value, dict) else value


def _configs(values: Iterable[Any]) -> Iterator[Config]:
    for value in values:
        if isinstance(value, Config):
            yield value
        elif isinstance(value, Mapping):
            yield from _configs(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _configs(value)


def paths_of(value: Any) -> list[Path]:
    """The paths in a config that decide its result. A pattern is replaced by the paths that match it."""
    if isinstance(value, Path):
        return [value] if value.exists() else [Path(p) for p in sorted(glob.glob(str(value)))] or [value]  # noqa: PTH207
    if isinstance(value, Config):
        fields = [name for name in type(value).model_fields if name not in value.volatile]
        return [p for name in fields for p in paths_of(getattr(value, name))]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [p for v in value for p in paths_of(v)] if isinstance(value, (list, tuple)) else []


def _without_paths(value: Any) -> Any:
    if isinstance(value, Config):
        fields = {
            name: getattr(value, name)
            for name, field in type(value).model_fields.items()
            if name not in value.volatile and not (name in value.added and getattr(value, name) == field.default)
        }
        return {k: _without_paths(v) for k, v in fields.items() if not isinstance(v, Path)}
    if isinstance(value, Mapping):
        return {str(k): _without_paths(v) for k, v in value.items() if not isinstance(v, Path)}
    if isinstance(value, (list, tuple)):
        return [_without_paths(v) for v in value if not isinstance(v, Path)]
    return value


def resolve_key_names(names: Mapping[str, str], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values with other names replaced by the keys. Raises `ValueError` if a key is given by two names."""
    if not (given := [name for name in names if name in values]):
        return values
    result = _copy(values)
    for name in given:
        *parents, leaf = names[name].split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        if not isinstance(node, dict) or leaf in node:
            raise ValueError(f"{name} is another name of {names[name]}. Give only one of them")
        node[leaf] = result.pop(name)
    return result


def report_old_names(model: type[BaseModel] | None, given: Iterable[str]) -> None:
    """Print the new name of each key that was given by its old name."""
    old = model.formerly if model and issubclass(model, Config) else {}
    for name in dict.fromkeys(key for key in given if key in old):
        say(f"{name} is now called {old[name]}; the old name still works")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises `ValueError` with the file and, if known, the line."""
    try:
        value = _restore_on_key(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a YAML file") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping of keys to values, found {type(value).__name__}")
    return value


def load_with_extends(
    path: Path,
    extended_by: Sequence[Path] = (),
    *,
    place: Callable[[dict[str, Any], Path], dict[str, Any]] = lambda values, folder: values,
) -> dict[str, Any]:
    """The values of a YAML file, merged over those of the file it `extends` (a path relative to it).

    extended_by: the files that extend this one. place: a function (values, folder) that makes relative paths in the
    values relative to the current folder. Raises like `load_yaml`, and if `extends` forms a circle.
    """
    values, chain = place(load_yaml(path), path.parent), [*extended_by, path.resolve()]
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends must be the path of one YAML file, got {base!r:.100}")
    below = path.parent / expand_home(Path(base))
    if below.resolve() in chain:
        raise ValueError(f"{path}: extends forms a circle: {' -> '.join(p.name for p in chain)} -> {base}")
    return merge(load_with_extends(below, chain, place=place), values)


def merge(below: Any, above: Any) -> Any:
    """Deep merge of two values; values of `above` win."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{k: merge(below.get(k), v) for k, v in above.items()}}
    return above


def apply_overrides(
    values: Mapping[str, Any], overrides: Sequence[str], model: type[BaseModel] | None = None
) -> dict[str, Any]:
    """A copy of `values` with `a.b=value` overrides. Values are YAML, so `x=1e-4`, `x=[1,2]`, `x=null` work.

    If `model` has a path or text under the key, the value is used literally. A list of paths or texts is split at
    commas, or is YAML in brackets.
    """
    names: Mapping[str, str] = model.other_names() if model and issubclass(model, Config) else {}
    report_old_names(model, [*values, *(item.partition("=")[0] for item in overrides)])
    result = _copy(resolve_key_names(names, values))
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ValueError(f"override {item!r} is not of the form key=value")
        key = names.get(key, key)
        *parents, leaf = key.split(".")
        node = result
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ValueError(f"override {item!r}: {parent!r} holds a value, not further keys")
            node = child
        kind = _kind(model, key.split(".")) if model else None
        node[leaf] = _parse_value(item, text, kind)
    return result


def validate(model: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Build the config. Every error is listed with its key, and unknown keys with the nearest known one."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(f"{where}: {validation_message(error, model)}") from None


def load_config(model: type[ConfigT], path: Path | None, overrides: Sequence[str] = ()) -> ConfigT:
    """Load a config from a YAML file and the files it extends, with overrides. `path` None: only defaults."""
    values = load_with_extends(path) if path else {}
    return validate(model, apply_overrides(values, overrides, model), str(path or "command line"))


def _restore_on_key(value: Any) -> Any:
    """YAML 1.1 reads a bare key `on` as true."""
    if isinstance(value, dict):
        return {"on" if key is True else key: _restore_on_key(item) for key, item in value.items()}
    return [_restore_on_key(item) for item in value] if isinstance(value, list) else value


def _parse_value(item: str, text: str, kind: str | None) -> Any:
    if kind == "text":
        return None if text == "null" else text
    if kind == "texts" and not text.startswith("[") and text != "null":
        return [part for part in text.split(",") if part]
    try:
        value = _restore_on_key(yaml.safe_load(text)) if text else ""
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"override {item!r} is not valid YAML ({reason}). Put the value in quotes") from None
    if isinstance(value, str):
        # YAML 1.1 reads 1e-4 as a string, but the user means a number.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _kind(model: Any, keys: Sequence[str]) -> str | None:
    """`text` for a key whose value is a path or a text, `texts` for a list of them, else None."""
    annotation = model
    for key in keys:
        fields: Mapping[str, Any] = next(
            (t.model_fields for t in members(annotation) if hasattr(t, "model_fields")), {}
        )
        if key not in fields:
            return None
        annotation = fields[key].annotation
    options = set(members(annotation))
    if options <= {Path, str}:
        return "text"
    listed = [set(members(get_args(t)[0])) for t in options if get_origin(t) in (tuple, list) and get_args(t)]
    return "texts" if len(listed) == len(options) == 1 and listed[0] <= {Path, str} else None


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value

"""Typed configuration: one YAML plus `a.b=value` overrides into a frozen pydantic model; unknown keys are refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator


class Config(BaseModel):
    """Base of every config: frozen, complete, typed, and closed to unknown keys.

    Fields typed `Path` and those named in `volatile` do not change what a step computes, so they are left out of
    `identity`: a path's content counts instead, through the digests of the step's inputs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
    volatile: ClassVar[frozenset[str]] = frozenset({"workers"})

    @field_validator("*", mode="after")
    @classmethod
    def _as_it_is_meant(cls, value: Any) -> Any:
        """A shell writes `~` out where it begins a word; in YAML and behind `=` nobody does.

        An integer beyond 64 bits could not be written into run.json.
        """
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("must be a number of at most 64 bits")
        return _at_home(value)

    def identity(self) -> dict[str, Any]:
        """What decides the output: all values but paths and volatile ones, ready for JSON."""
        return _without_paths(self)


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def _at_home(value: Any) -> Any:
    if isinstance(value, Path) and str(value).startswith("~"):
        try:
            return value.expanduser()
        except RuntimeError:  # of no user: a file that is called so
            return value
    if isinstance(value, tuple) and any(isinstance(v, (Path, tuple)) for v in value):
        return tuple(map(_at_home, value))
    return {k: _at_home(v) for k, v in value.items()} if isinstance(value, dict) else value


def _without_paths(value: Any) -> Any:
    if isinstance(value, Config):
        fields = {name: getattr(value, name) for name in type(value).model_fields if name not in value.volatile}
        return {k: _without_paths(v) for k, v in fields.items() if not isinstance(v, Path)}
    if isinstance(value, Mapping):
        return {str(k): _without_paths(v) for k, v in value.items() if not isinstance(v, Path)}
    if isinstance(value, (list, tuple)):
        return [_without_paths(v) for v in value if not isinstance(v, Path)]
    return value


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises `ValueError` naming the file and, where the parser knows it, the line."""
    try:
        value = _keys_as_written(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ValueError(
            f"{path} is a folder, where the YAML file of a config goes; a folder of data is given by its key, such as "
            f"input={path}"
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}{_if_data(path)}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping of keys to values, found {type(value).__name__}{_if_data(path)}")
    return value


def _if_data(path: Path) -> str:
    """A hint for a file that is not called YAML."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return ""
    return f". Is it data? The first word is the YAML of a config; data is given by its key, such as input={path}"


def load_extended(path: Path, extended_by: Sequence[Path] = ()) -> dict[str, Any]:
    """A YAML's values over those of the YAML that it `extends`, whose path is relative to it.

    extended_by: the files that came before. Raises as `load_yaml`, and for `extends` in a circle.
    """
    values, chain = load_yaml(path), [*extended_by, path.resolve()]
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends is the path of one YAML file, got {base!r:.100}")
    if (path.parent / base).resolve() in chain:
        raise ValueError(f"{path}: extends goes in a circle: {' -> '.join(p.name for p in chain)} -> {base}")
    return merge(load_extended(path.parent / base, chain), values)


def merge(below: Any, above: Any) -> Any:
    """`above` where it says something, else `below`; mappings are merged key by key."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{k: merge(below.get(k), v) for k, v in above.items()}}
    return above


def apply_overrides(
    values: Mapping[str, Any], overrides: Sequence[str], model: type[BaseModel] | None = None
) -> dict[str, Any]:
    """A copy of `values` with `a.b=value` overrides; values are read as YAML, so `x=1e-4`, `x=[1,2]`, `x=null` work.

    Where `model` says that a key is a path or a text, the value is taken as it stands, whatever it holds; for a list of
    them it is cut at commas (or is YAML in brackets).
    """
    result = _copy(values)
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ValueError(f"override {item!r} is not of the form key=value")
        *parents, leaf = key.split(".")
        node = result
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ValueError(f"override {item!r}: {parent!r} holds a value, not further keys")
            node = child
        kind = _kind(model, key.split(".")) if model else None
        node[leaf] = _parsed(item, text, kind)
    return result


def validate(model: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Build the config; every mistake is listed with its key, and unknown keys with the nearest known one."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(f"{where}: {told(error, model)}") from None


def told(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """What is wrong with the values of a config, key by key, in one sentence without pydantic's addresses."""
    lines, places = [], [item["loc"] for item in error.errors()]
    for item in error.errors():
        key, depth = ".".join(str(p) for p in item["loc"]), len(item["loc"])
        if item["type"] == "too_short" and any(p[:depth] == item["loc"] and len(p) > depth for p in places):
            continue  # the list is short of the items that are mistaken, which is said already
        if item["type"] in ("tuple_type", "list_type"):
            lines.append(f"{key}: give a list in brackets, such as {key}=[{item['input']}], got {item['input']!r}")
        elif item["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}{_nearest(model, item['loc']) if model else ''}")
        else:
            # What is wrong with several keys together is said in the sentence; all of them would bury it.
            whole = isinstance(item["input"], (Mapping, BaseModel))
            given = "" if whole or item["type"] == "missing" else f", got {item['input']!r}"
            lines.append(f"{key or 'config'}: {item['msg'].removeprefix('Value error, ')}{given}")
    return "; ".join(lines)


def load_config(model: type[ConfigT], path: Path | None, overrides: Sequence[str] = ()) -> ConfigT:
    """A config from a YAML file (or only from defaults when `path` is None), what it extends, and overrides."""
    values = load_extended(path) if path else {}
    return validate(model, apply_overrides(values, overrides, model), str(path or "command line"))


def _keys_as_written(value: Any) -> Any:
    """YAML 1.1 reads a bare key `on` as true."""
    if isinstance(value, dict):
        return {"on" if key is True else key: _keys_as_written(item) for key, item in value.items()}
    return [_keys_as_written(item) for item in value] if isinstance(value, list) else value


def _parsed(item: str, text: str, kind: str | None) -> Any:
    if kind == "text":
        return None if text == "null" else text
    if kind == "texts" and not text.startswith("[") and text != "null":
        return [part for part in text.split(",") if part]
    try:
        value = _keys_as_written(yaml.safe_load(text)) if text else ""
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"override {item!r} holds no valid YAML value ({reason}); put it in quotes") from None
    if isinstance(value, str):
        # YAML 1.1 reads 1e-4 as a string; a user who writes it means the number.
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
            (t.model_fields for t in _options(annotation) if hasattr(t, "model_fields")), {}
        )
        if key not in fields:
            return None
        annotation = fields[key].annotation
    options = _options(annotation)
    if options <= {Path, str}:
        return "text"
    listed = [_options(get_args(t)[0]) for t in options if get_origin(t) in (tuple, list) and get_args(t)]
    return "texts" if len(listed) == len(options) == 1 and listed[0] <= {Path, str} else None


def _options(annotation: Any) -> set[Any]:
    """The types that an annotation allows, None left out."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*(_options(t) for t in get_args(annotation))) - {NoneType}
    return {annotation}


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _nearest(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    node: Any = model
    for part in location[:-1]:
        field = getattr(node, "model_fields", {}).get(part)
        node = field.annotation if field else None
    names = list(getattr(node, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""

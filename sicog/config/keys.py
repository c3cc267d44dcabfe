"""List the keys of a config with type, default and comment, for the terminal and the docs.

The comment of a key is the docstring under its field. Comments of keys that many configs share are in `COMMON`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

COMMON: Mapping[str, str] = {
    "out_dir": "Folder to write.",
    "image_folder": "Folder or .tar that image paths are relative to.",
    "image_roots": "Folders outside `image_folder` that its links may point to.",
    "cache_dir": "Folder for tables, vectors and hashes that later runs reuse; null: $SICOG_CACHE or ~/.cache/sicog.",
    "max_dropped_share": "The run stops if a larger share of rows cannot be used.",
    "seed": "Seed of all random choices.",
    "workers": "Processes on this machine. Each has its own GPU if there are GPUs.",
    "block_size": "Rows processed together. An interruption loses at most one block.",
    "rows_per_shard": "Rows in each output file.",
    "batch_size": "Sequences decoded together.",
    "temperature": "Sampling temperature; 0 is greedy.",
    "top_p": "Nucleus sampling; 1 is off.",
    "max_new_tokens": "Maximum number of tokens of an answer.",
    "slicing": "Whether to cut images into slices; false: only the thumbnail.",
    "device": "`auto` is a GPU if there is one.",
    "precision": "Precision of weights and computation; `auto` is bfloat16 on a GPU and float32 on a CPU.",
    "by": "`score` ranks candidates by their self-consistency score; `vote` by their answer's share of the votes "
    "(reasoning only), then by score. Ties go to the lowest index.",
    "threshold_k": "Number of candidates that `threshold` refers to.",
    "min_candidates": "Rows with fewer comparable candidates are dropped.",
    "styles": "Only candidates of these styles may be chosen (all still count in the scores); null: all.",
    "exclude": "Datasets of `Dropped`, as `sicog overlap` writes them. Rows with their ids are dropped.",
    "time": "Time limit of a job, in sbatch's format.",
    "partition": "Partition of a job; null: the cluster's default.",
    "options": "Other sbatch options without dashes, such as {account: mine, constraint: a100}.",
}
_WORDS: Mapping[Any, tuple[str, str]] = {  # singular, plural
    Path: ("path", "paths"),
    str: ("text", "texts"),
    int: ("integer", "integers"),
    float: ("number", "numbers"),
    bool: ("true | false", "true | false"),
    Any: ("anything", "anything"),
}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of"}
_REQUIRED = "required"


@dataclass(frozen=True)
class Key:
    """One key. name: the full dotted name, with NAME for any name and [] for an item of a list.

    default: as YAML; `required` if there is none; empty if the next section lists the default keys.
    """

    name: str
    type: str
    default: str
    comment: str


@dataclass(frozen=True)
class Section:
    """The keys of one config class. places: all keys that hold this class; empty for the outermost one."""

    config: type[BaseModel]
    places: tuple[str, ...]
    says: str
    keys: tuple[Key, ...]


def sections(model: type[BaseModel]) -> list[Section]:
    """The keys of a config, then those of every nested config. Each class is listed once."""
    places: dict[type[BaseModel], list[str]] = {model: []}
    found = [model]
    for config in found:  # grows during the loop
        prefix = f"{places[config][0]}." if places[config] else ""
        for name, field in config.model_fields.items():
            for place, inner in configs(f"{prefix}{name}", field.annotation):
                if inner not in places:
                    found.append(inner)
                    places[inner] = []
                places[inner].append(place)
    also = {key: f"Also called `{name}`." for name, key in getattr(model, "also", {}).items()}
    also |= {key: f"Old name: `{name}`." for name, key in getattr(model, "formerly", {}).items()}
    return [_section(config, tuple(places[config]), also) for config in found]


def as_text(listed: Sequence[Section], width: int) -> str:
    """The sections as text for a terminal with this many columns."""
    lines: list[str] = []
    for section in listed:
        if section.places:
            title = f"{', '.join(section.places)}: {section.says}"
            lines += ["", *textwrap.wrap(title, width, subsequent_indent="  ", break_on_hyphens=False)]
        for key in section.keys:
            default = f" = {key.default}" if key.default not in ("", _REQUIRED) else ""
            lines.append(f"  {key.name}{default}  ({key.type}{', required' if key.default == _REQUIRED else ''})")
            indent = " " * 6
            lines += textwrap.wrap(
                key.comment, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
            )
    return "\n".join(lines)


def as_table(section: Section) -> str:
    """One section as a Markdown table. Keys of a nested config have their short names."""
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    above = f"{section.places[0]}." if section.places else ""
    for key in section.keys:
        default = key.default if key.default in ("", _REQUIRED) else f"`{_bare(key.default)}`"
        lines.append(
            f"| `{key.name.removeprefix(above)}` | {_cell(key.type)} | {default} | {_cell(key.comment)} |",
        )
    return "\n".join(lines)


def comment_of(name: str, field: FieldInfo) -> str:
    """The comment of a key in one line: its own, else the common one, else the docstring of its config."""
    inner = next((config for _, config in configs("", field.annotation)), None)
    return _one_line(field.description or COMMON.get(name) or (_summary(inner) if inner else ""))


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type in words: `integer, at least 1`, `a | b`, `list of paths`, `number or null, 0 to 1`."""
    options = members(annotation)
    words = [_one(option) for option in options] + ["null"] * (len(options) < len(_options(annotation)))
    return " or ".join(words) + _bounds(metadata)


def _section(config: type[BaseModel], places: tuple[str, ...], also: Mapping[str, str]) -> Section:
    prefix = f"{places[0]}." if places else ""
    keys = []
    for name, field in config.model_fields.items():
        place, comment = f"{prefix}{name}", comment_of(name, field)
        if place in also:
            comment += f" {also[place]}"
        keys.append(Key(place, type_text(field.annotation, field.metadata), _default(field), comment))
    last = [f"{prefix}{name}" for name in getattr(config, "last", ())]
    keys.sort(key=lambda key: (key.default != _REQUIRED, last.index(key.name) if key.name in last else -1))
    return Section(config, places, _summary(config), tuple(keys))


def configs(place: str, annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The configs in a value and their places: under NAME in a mapping, under [] in a list."""
    for option in _options(annotation):
        origin, inner = get_origin(option), get_args(option)
        if isinstance(option, type) and issubclass(option, BaseModel):
            yield place, option
        elif origin in (tuple, list):
            yield from configs(f"{place}[]", inner[0])
        elif inner and origin is not Literal:
            yield from configs(f"{place}.NAME", inner[-1])


def members(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without None."""
    return [option for option in _options(annotation) if option is not NoneType]


def _options(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [option for member in get_args(annotation) for option in _options(member)]
    return [annotation]


def _one(option: Any, *, several: bool = False) -> str:
    origin, inner = get_origin(option), get_args(option)
    if option in _WORDS:
        return _WORDS[option][several]
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (tuple, list):
        if Ellipsis in inner or origin is list:
            return f"list of {_items(inner[0])}"
        return f"[{', '.join(type_text(member) for member in inner)}]"
    if inner:
        return f"mapping of names to {_items(inner[1])}"
    assert isinstance(option, type), option
    return "mappings" if several else "mapping"


def _items(annotation: Any) -> str:
    options = members(annotation)
    return " or ".join(_one(option, several=True) for option in options) + _bounds(_metadata(annotation))


def _metadata(annotation: Any) -> list[Any]:
    """The constraints of an annotated item, those inside a `Field` included."""
    given = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return [bound for item in given for bound in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _bounds(metadata: Sequence[Any]) -> str:
    found = {
        name: getattr(item, name) for item in metadata for name in _BOUNDS if getattr(item, name, None) is not None
    }
    if "ge" in found and "le" in found:
        return f", {found['ge']:g} to {found['le']:g}"
    return "".join(f", {word} {found[name]:g}" for name, word in _BOUNDS.items() if name in found)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return _REQUIRED
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_defaults=True)
        return _flow(given) if given else ""
    return _flow(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_flow(item)}' for name, item in value.items())}}}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and value and not any(c in value for c in "{}[],#"):
        return value
    return json.dumps(value)


def _summary(config: type[BaseModel]) -> str:
    return _one_line((config.__doc__ or "").split("\n\n")[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    """Text for a Markdown table. `<` and `*` outside code are escaped."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", r"\*").replace("|", r"\|") for part in parts[::2]]
    parts[1::2] = [_bare(part) for part in parts[1::2]]
    return "`".join(parts)


def _bare(code: str) -> str:
    return code.replace("|", r"\|")

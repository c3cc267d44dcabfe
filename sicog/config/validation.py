"""Plain error messages for configs and records, in place of pydantic's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sicog.config.keys import configs, members, type_text

_LISTS = ("tuple_type", "list_type")
_SAYS: Mapping[str, str] = {
    "missing": "is missing",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "must be an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("string_type", "string_sub_type"), "must be a text"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "must be a mapping"),
    **dict.fromkeys(_LISTS, "must be a list, with [] for none"),
    "string_unicode": "must be a text in UTF-8",
    "path_type": "must be a path",
    "finite_number": "must be a finite number",
    "none_required": "must be null",
    "literal_error": "must be {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "must hold at least {min_length}",
    "too_long": "must hold at most {max_length}",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must match {pattern}",
    "extra_forbidden": "is not a known key",
    "json_invalid": "is not valid JSON ({error})",
    "json_type": "must be JSON",
    "value_error": "{error}",
}


def error_phrase(item: ErrorDetails) -> str:
    """The error of one value, without its key: `must be an integer`."""
    template = _SAYS.get(item["type"])
    if template is None:
        return item["msg"]
    values = {name: f"{value:g}" if isinstance(value, float) else value for name, value in item.get("ctx", {}).items()}
    return template.format_map(values)


def first_validation_message(error: ValidationError) -> str:
    """The first error, with its field but without the value, which may be long."""
    item = error.errors(include_url=False)[0]
    return _sentence(_dotted_key(item["loc"]) or "row", error_phrase(item), item["type"])


def validation_message(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """All errors of a config, key by key, in one line.

    model: the config class. It is used to explain lists and to suggest the nearest known key.
    """
    lines: dict[str, None] = {}  # unique, in order
    places = [item["loc"] for item in error.errors()]
    for item in error.errors():
        depth = len(item["loc"])
        if item["type"] == "too_short" and any(p[:depth] == item["loc"] and len(p) > depth for p in places):
            continue  # the list is too short only because of wrong items, which are reported already
        lines[_line(item, model)] = None
    return "; ".join(lines)


def _line(item: ErrorDetails, model: type[BaseModel] | None) -> str:
    place, annotation = _place(item["loc"], model) if model else (item["loc"], None)
    if item["type"] == "extra_forbidden":
        return f"unknown key {_dotted_key(place)!r}{_key_hint(model, item) if model else ''}"
    if item["type"] == "missing" and place and isinstance(place[-1], int):  # a missing item of a list of fixed length
        place, annotation = _place(item["loc"][:-1], model) if model else (place[:-1], None)
        return (
            f"{_dotted_key(place)}: must be {type_text(annotation) if annotation else 'longer'}, got {item['input']!r}"
        )
    if item["type"] in _LISTS and item["input"] is not None:
        return f"{_dotted_key(place)}: {_as_list(_dotted_key(place), item['input'], annotation)}, got {item['input']!r}"
    if place and place[-1] == "[key]":
        return f"{_dotted_key(place[:-2])}: each name {error_phrase(item)}, got {item['input']!r}"
    # An error about several keys names them in its message. Printing the whole mapping would hide it.
    whole = isinstance(item["input"], (Mapping, BaseModel)) and item["type"] == "value_error"
    given = "" if whole or item["type"] == "missing" else f", got {_value_text(item['input'])}"
    return f"{_sentence(_dotted_key(place) or 'config', error_phrase(item), item['type'])}{given}"


def _sentence(key: str, words: str, kind: str) -> str:
    return f"{key} {words}" if kind == "missing" else f"{key}: {words}"


def _as_list(key: str, given: Any, annotation: Any) -> str:
    inner = next((config for _, config in configs("", annotation)), None)
    if inner is None:
        return f"give a list in brackets, such as {key}=[{given}]"
    required = [f"{name}: .." for name, field in inner.model_fields.items() if field.is_required()]
    return f"give a list of mappings, such as {key}=[{{{', '.join(required)}}}]"


def _place(location: Sequence[int | str], model: Any) -> tuple[tuple[int | str, ...], Any]:
    """The keys of an error's location, and the expected type there.

    If a value may have several types, the location also holds the name of the type that was tried. It is not a key.
    """
    kept: list[int | str] = []
    node, tried = model, False
    for part in location:
        options = members(node)
        if len(options) > 1 and not tried:
            tried = True  # the name of the type that was tried
            continue
        tried = False
        kept.append(part)
        node = _below(options, part)
    return tuple(kept), node


def _below(options: Sequence[Any], part: int | str) -> Any:
    """The type of the value at a key or index of one of these types."""
    for option in options:
        fields = getattr(option, "model_fields", None)
        if fields is not None:
            if part in fields:
                return fields[part].annotation
        elif inner := getattr(option, "__args__", ()):
            return inner[0] if isinstance(part, int) else inner[-1]
    return None


def _key_hint(model: type[BaseModel], item: ErrorDetails) -> str:
    """A hint at the intended key: the nearest one, or how to set the variable of a script."""
    *above, last = item["loc"]
    _, node = _place(above, model)
    names = [name for option in members(node) for name in getattr(option, "model_fields", {})]
    key = str(last)
    if key.isupper():  # keys are never upper case
        value = f"{key.lower()}={item['input']}"
        own = f", or write {value}" if key.lower() in names else "; `SCRIPT.sh --help` shows the key of each variable"
        return f" (a variable of a script is exported before it starts: export {key}={item['input']}{own})"
    if close := difflib.get_close_matches(key, names, n=1):
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def _value_text(value: Any) -> str:
    return "null" if value is None else f"{value!r:.200}"


def _dotted_key(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location)

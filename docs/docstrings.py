"""For mkdocstrings: lines of a docstring that begin `name:` are a list, as they read in the source."""

from __future__ import annotations

import re
from typing import Any

import griffe

_NAMED = re.compile(r"^(\w+(?:, \w+)*): (?=\S)")


class NamedLines(griffe.Extension):
    """Turn `name: what it is` at the start of a line into an item; indented lines go on with it."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_list(obj.docstring.value)


def as_list(text: str) -> str:
    """The text with its named lines as a Markdown list.

    A paragraph is a list when its first line is named; inside it each named line begins an item.
    """
    return "\n\n".join(_paragraph(paragraph) for paragraph in re.split(r"\n\s*\n", _plain(text)))


def _plain(text: str) -> str:
    """`<` and `*` outside code stand for themselves, not for tags and emphasis."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", r"\*") for part in parts[::2]]
    return "`".join(parts)


def _paragraph(paragraph: str) -> str:
    lines = paragraph.split("\n")
    first = next((i for i, line in enumerate(lines) if _NAMED.match(line)), None)
    if first is None or paragraph.startswith(" "):
        return paragraph
    if first and not lines[first - 1].rstrip().endswith((".", ":", ")")):
        return paragraph
    before, items = lines[:first], [_NAMED.sub(r"- **\1**: ", line) for line in lines[first:]]
    items = [line if line.startswith("- ") else f"  {line.strip()}" for line in items]
    return "\n".join([*before, *([""] if before else []), *items])

"""Split texts into sentences with their positions; headings of a step-by-step text are not sentences."""

from __future__ import annotations

import re

_HEADING = re.compile(r"^Step \d+:[^\n]*$", re.MULTILINE)
_ENDS = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]]*(?=\s)|(?<=[\u3002\uff01\uff1f])|\n+")
# A full stop after one of these, or after a single capital letter, does not end a sentence.
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|vs|No|Fig|approx|e\.g|i\.e|cf|etc)|(?:^|[\s(])[A-Z])\.$")
_EMPTY = re.compile(r"\s*(?:[-*\u2022]|\d{1,2}[.)])\s*")  # a bullet with nothing behind it
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d{1,2}[.)])\s+")


def sentences(text: str) -> list[tuple[int, int]]:
    """Return start and end of each sentence, in order, without white space and bullets at the ends."""
    found, start = [], 0
    for heading in [*_HEADING.finditer(text), None]:
        stop = heading.start() if heading else len(text)
        found += _sentences_in_part(text, start, stop)
        start = heading.end() if heading else stop
    return found


def _sentences_in_part(text: str, start: int, stop: int) -> list[tuple[int, int]]:
    found, begin = [], start
    for end in [*_ENDS.finditer(text, start, stop), None]:
        at = end.end() if end else stop
        piece = text[begin:at]
        if end and not end.group().startswith("\n") and _ABBREVIATION.search(piece):
            continue
        bullet = _BULLET.match(piece)
        first = begin + (bullet.end() if bullet else len(piece) - len(piece.lstrip()))
        last = begin + len(piece.rstrip())
        if any(c.isalnum() for c in text[first:last]):
            found.append((first, last))
        begin = at
    return found


def remove_sentences(text: str, removed: list[tuple[int, int]]) -> str:
    """Remove these sentences, the white space before each, and lines that become empty."""
    kept, start = [], 0
    for first, last in sorted(removed):
        kept.append(text[start:first].rstrip(" \t"))
        start = last
    whole = "".join([*kept, text[start:]])
    lines = [line.rstrip() for line in whole.split("\n")]
    tidy = "\n".join(line if _HEADING.match(line) else line.lstrip(" ") for line in lines if not _EMPTY.fullmatch(line))
    return re.sub(r"\n{3,}", "\n\n", tidy).strip()

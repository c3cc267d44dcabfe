"""Length and style mix of the rows: candidates of each style, chosen and kept ones, and their lengths.

Values that no step has decided yet are None: sampled rows have no chosen candidate, unscored rows no unusable one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sicog.report.browser_rows import Facts, Text
from sicog.report.curated import DROPPED, KEPT, OPEN
from sicog.report.cuts import round_step

BARS, FEWEST = 24, 10
# Texts whose words are counted, by the state of the rows.
CHOSEN, BEST, CANDIDATES, ANSWERS = "chosen texts", "best candidates", "candidates", "answers"


@dataclass
class _Style:
    """Counts of one style. `words`: number of texts by number of words, by the state of their row."""

    candidates: int = 0
    excluded: int = 0
    score: float = 0.0
    scored: int = 0
    words: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def all_words(self) -> Counter[int]:
        """Return the counts over rows in any state."""
        return sum(self.words.values(), Counter[int]())


@dataclass
class _Set:
    """One set. `of`: the texts whose words are counted."""

    of: str
    styles: dict[str, _Style] = field(default_factory=lambda: defaultdict(_Style))
    sources: Counter[str] = field(default_factory=Counter)


class Mix:
    """Counts rows by set and style; does not keep texts."""

    def __init__(self) -> None:
        self._sets: dict[str, _Set] = {}

    def add(self, facts: Facts, text: Text) -> None:
        """Add one row."""
        of = _of(facts, text)
        found = self._sets.setdefault(facts.set, _Set(of))
        for candidate in text.get("candidates", ()):
            style = found.styles[candidate["style"]]
            style.candidates += 1
            style.excluded += "excluded" in candidate
            if "score" in candidate:
                style.score += candidate["score"]
                style.scored += 1
        for name, words in _texts(of, facts, text):
            found.styles[name].words[facts.state][words] += 1
        if of == ANSWERS:
            found.sources[facts.task or "no source"] += 1

    def to_json(self) -> dict[str, Any]:
        """Return by set: table of styles, lengths of texts, and sources of examples."""
        found = {}
        for name, one in self._sets.items():
            ordered = dict(sorted(one.styles.items()))
            found[name] = {
                "of": one.of,
                "styles": [{"style": style, **_row(counts, one.of)} for style, counts in ordered.items()],
                "lengths": _lengths(ordered, one.of),
                "sources": dict(sorted(one.sources.items())),
            }
        return found


def _of(facts: Facts, text: Text) -> str:
    if "turns" in text:
        return ANSWERS
    if "encoder" not in text:
        return CANDIDATES  # sampled ones, or the two of a pair
    return BEST if facts.state == OPEN else CHOSEN


def _texts(of: str, facts: Facts, text: Text) -> Iterator[tuple[str, int]]:
    """Yield style and number of words of each counted text of a row."""
    if of == CANDIDATES:
        for candidate in text["candidates"]:
            yield candidate["style"], len(candidate["text"].split())
    elif of == ANSWERS or facts.style is not None:
        yield facts.style or "no style", facts.words


def _row(style: _Style, of: str) -> dict[str, Any]:
    texts = style.all_words
    rows, words = texts.total(), sum(n * count for n, count in texts.items())
    return {
        "candidates": style.candidates,
        "excluded": style.excluded if of in (CHOSEN, BEST) else None,
        "chosen": rows if of == CHOSEN else None,
        "kept": style.words[KEPT].total() if of == CHOSEN else None,
        "texts": rows,
        "mean_score": round(style.score / style.scored, 6) if style.scored else None,
        "mean_words": round(words / rows, 2) if rows else None,
    }


def _lengths(styles: Mapping[str, _Style], of: str) -> dict[str, Any] | None:
    """Return counts of texts by number of words, by style and state; the longest 1 % share the last bar."""
    total = sum((style.all_words for style in styles.values()), Counter[int]())
    if not total:
        return None
    top = _quantile(total, 0.99)
    step = max(1, math.ceil(round_step(max(1, top) / BARS)))
    bars = max(top // step + 1, FEWEST)
    by_style = {}
    for name, style in styles.items():
        lines = {}
        for state in (KEPT, DROPPED) if of == CHOSEN else (OPEN,):
            counts = np.zeros(bars, dtype=np.int64)
            for words, rows in style.words[state].items():
                counts[min(words // step, bars - 1)] += rows
            lines[state] = counts.tolist()
        if any(map(any, lines.values())):
            by_style[name] = lines
    return {"step": step, "longest": max(total), "styles": by_style}


def _quantile(counts: Counter[int], share: float) -> int:
    left = counts.total() * share
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return max(counts)

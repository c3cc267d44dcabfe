"""Length and style mix of the rows: what each style gave, what was chosen and kept, how long it is."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sicog.report.cuts import round_step
from sicog.report.rows import Facts, Text

BARS, FEWEST = 24, 10


@dataclass
class _Style:
    """Counts of one style. `words`: how many rows have a chosen text of so many words, kept and not."""

    candidates: int = 0
    excluded: int = 0
    score: float = 0.0
    scored: int = 0
    words: dict[bool, Counter[int]] = field(default_factory=lambda: {True: Counter(), False: Counter()})


class Mix:
    """Adds rows up, by their set and style; no texts are kept."""

    def __init__(self) -> None:
        self._sets: dict[str, dict[str, _Style]] = defaultdict(lambda: defaultdict(_Style))
        self._sources: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, facts: Facts, text: Text) -> None:
        """One row more."""
        styles = self._sets[facts.set]
        for candidate in text.get("candidates", ()):
            style = styles[candidate["style"]]
            style.candidates += 1
            style.excluded += "excluded" in candidate
            if "score" in candidate:
                style.score += candidate["score"]
                style.scored += 1
        if facts.style is not None or "turns" in text:
            styles[facts.style or "no style"].words[facts.state != "dropped"][facts.words] += 1
        if "turns" in text:
            self._sources[facts.set][facts.task or "no source"] += 1

    def to_json(self) -> dict[str, Any]:
        """By set: the table of its styles, the lengths of the chosen texts, and the sources of examples."""
        found = {}
        for name, styles in self._sets.items():
            ordered = dict(sorted(styles.items()))
            found[name] = {
                "styles": [{"style": style, **_row(counts)} for style, counts in ordered.items()],
                "lengths": _lengths(ordered),
                "sources": dict(sorted(self._sources[name].items())),
            }
        return found


def _row(style: _Style) -> dict[str, Any]:
    chosen = style.words[True] + style.words[False]
    rows, words = chosen.total(), sum(n * count for n, count in chosen.items())
    return {
        "candidates": style.candidates,
        "excluded": style.excluded,
        "chosen": rows,
        "kept": style.words[True].total(),
        "mean_score": round(style.score / style.scored, 6) if style.scored else None,
        "mean_words": round(words / rows, 2) if rows else None,
    }


def _lengths(styles: dict[str, _Style]) -> dict[str, Any] | None:
    """Counts of chosen texts by their number of words, by style; the longest 1 % share the last bar."""
    total = sum((s.words[True] + s.words[False] for s in styles.values()), Counter())
    if not total:
        return None
    top = _quantile(total, 0.99)
    step = max(1, math.ceil(round_step(max(1, top) / BARS)))
    bars = max(top // step + 1, FEWEST)
    by_style = {}
    for name, style in styles.items():
        lines = {}
        for kept, key in ((True, "kept"), (False, "dropped")):
            counts = np.zeros(bars, dtype=np.int64)
            for words, rows in style.words[kept].items():
                counts[min(words // step, bars - 1)] += rows
            lines[key] = counts.tolist()
        if any(lines["kept"]) or any(lines["dropped"]):
            by_style[name] = lines
    return {"step": step, "longest": max(total), "styles": by_style}


def _quantile(counts: Counter[int], share: float) -> int:
    left = counts.total() * share
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return max(counts)

"""Baseline scorers, and loading of a user's scorer.

A scorer is a function `score(row, embed)` that returns one number per candidate of the row, higher is better. `row` is
a `LabRow` (never use its `truths`); `embed(texts)` returns unit vectors, float32 [N, D].
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sicog.answers import final_answer
from sicog.curation.score.self_consistency import draw_integer, self_consistency
from sicog.lab.true_candidates import LabRow

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
Scorer = Callable[[LabRow, Embed], Sequence[float]]


def consistency(row: LabRow, embed: Embed) -> Sequence[float]:
    """Score of the method: mean cosine to all candidates."""
    return self_consistency(embed(row.texts), [len(row.texts)]).score.tolist()


def vote(row: LabRow, embed: Embed) -> Sequence[float]:
    """Share of candidates with the same final answer."""
    answers = [final_answer(text, row.query.question) for text in row.texts]
    counts = Counter(answers)
    return [counts[answer] / len(answers) for answer in answers]


def vote_then_consistency(row: LabRow, embed: Embed) -> Sequence[float]:
    """Vote, ties broken by the mean cosine."""
    return [v + s / 1000 for v, s in zip(vote(row, embed), consistency(row, embed), strict=True)]


def longest(row: LabRow, embed: Embed) -> Sequence[float]:
    """Number of words, a trivial baseline."""
    return [float(len(text.split())) for text in row.texts]


def shortest(row: LabRow, embed: Embed) -> Sequence[float]:
    """Minus the number of words."""
    return [-float(len(text.split())) for text in row.texts]


def random(row: LabRow, embed: Embed) -> Sequence[float]:
    """Random numbers, seeded by the row's id."""
    return [draw_integer(10**6, 0, "lab", row.query.id, str(i)) / 10**6 for i in range(len(row.texts))]


SCORERS: Mapping[str, Scorer] = {
    f.__name__: f for f in (consistency, vote, vote_then_consistency, longest, shortest, random)
}


def load_scorer(path: Path) -> Scorer:
    """Load the function `score` of a Python file. Runs the file's code."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a Python file with a function score(row, embed)")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Any = getattr(module, "score", None)
    if not callable(found):
        raise ValueError(f"{path}: the function score(row, embed) is missing. Add it")
    scorer: Scorer = found
    return scorer

"""What a scorer is worth, on rows whose worth is known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sicog.lab.scorer_quality import auroc, risk_coverage, scorer_quality
from sicog.lab.true_candidates import LabRow
from sicog.records import Candidate, Query


def row(number: int, truths: tuple[float, ...], image: str | None = None) -> LabRow:
    query = Query(id=f"q{number}", task="reasoning", question="?")
    made = {"style": "direct", "prompt": "?", "seed": 0, "finish_reason": "stop", "n_tokens": 1, "checkpoint": "a"}
    texts = tuple(f"answer {i}" for i in range(len(truths)))
    candidates = tuple(Candidate(query_id=query.id, index=i, text=t, **made) for i, t in enumerate(texts))
    return LabRow(query, candidates, texts, truths, image or query.id)


def test_auroc_counts_pairs_and_ties_as_half() -> None:
    values, right = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    pairs = [(a > b) + (a == b) / 2 for a in values[right] for b in values[~right]]
    assert auroc(values, right) == pytest.approx(sum(pairs) / len(pairs)) == pytest.approx(0.875)
    assert auroc(-values, right) == pytest.approx(0.125)
    assert math.isnan(auroc(values, np.array([True] * 4)))


def test_auroc_agrees_with_all_pairs_on_random_rows() -> None:
    rng = np.random.default_rng(0)
    values, right = rng.integers(0, 9, 200) / 9, rng.random(200) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in values[right] for b in values[~right]]
    assert auroc(values, right) == pytest.approx(np.mean(pairs))


def test_risk_falls_where_the_best_scores_are_the_truest_and_ends_at_the_mean() -> None:
    values, truths = np.linspace(0, 1, 100), np.linspace(0, 1, 100)
    curve = risk_coverage(values, truths)
    assert [share for share, _ in curve] == pytest.approx([i / 20 for i in range(1, 21)])
    assert [risk for _, risk in curve] == sorted(risk for _, risk in curve)
    assert curve[-1][1] == pytest.approx(1 - truths.mean())


def test_the_order_of_equal_scores_decides_nothing() -> None:
    truths = np.array([1.0, 0.0, 1.0, 0.0] * 10)
    assert risk_coverage(np.zeros(40), truths) == risk_coverage(np.zeros(40), truths[::-1].copy())


def test_worth_of_an_oracle_and_of_its_opposite() -> None:
    rows = [row(i, (1.0, 0.0, 0.0) if i % 2 else (0.0, 0.0, 1.0), f"image {i // 2}") for i in range(40)]
    best = scorer_quality(rows, [r.truths for r in rows], resamples=20)
    worst = scorer_quality(rows, [[-t for t in r.truths] for r in rows], resamples=20)
    assert (best.truth.value, worst.truth.value) == (1.0, 0.0)
    assert best.truest.value == 1.0 and worst.truest.value == 0.0
    assert best.over_random.value == pytest.approx(2 / 3) and worst.over_random.value == pytest.approx(-1 / 3)


def test_ties_take_the_first_candidate() -> None:
    rows = [row(0, (0.0, 1.0)), row(1, (1.0, 0.0))]
    assert scorer_quality(rows, [[1.0, 1.0], [1.0, 1.0]], resamples=5).truth.value == 0.5

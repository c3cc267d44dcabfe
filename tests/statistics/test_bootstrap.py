"""Intervals and the paired test: against closed forms, planted differences, and what they must not depend on."""

import math

import numpy as np
import pytest

from sicog.evaluation.families import FAMILIES, Question, f1_ratio, mean_ratio, mme_ratios
from sicog.statistics.bootstrap import difference, estimate


def ratios(values):
    return [(np.asarray(values, dtype=float), np.ones(len(values)))]


def names(n):
    return [str(i) for i in range(n)]


def test_the_interval_of_a_mean_is_the_normal_one_for_many_questions():
    values = (np.arange(400) % 4 == 0).astype(float)
    found = estimate(ratios(values), names(400))
    half = 100 * 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert found.value == 25.0
    assert found.low == pytest.approx(25 - half, abs=0.6) and found.high == pytest.approx(25 + half, abs=0.6)
    assert estimate(ratios(values), names(400)) == found  # seeded


def test_questions_that_share_an_image_widen_the_interval():
    values = np.repeat((np.arange(50) % 2).astype(float), 8)
    alone, shared = estimate(ratios(values), names(400)), estimate(ratios(values), [str(i // 8) for i in range(400)])
    assert (shared.high - shared.low) > 2 * (alone.high - alone.low)
    assert math.isnan(estimate(ratios(values), ["one"] * 400).low)


def test_a_planted_difference_is_found_and_none_is_not():
    draw = np.random.default_rng(0)
    first = draw.integers(0, 2, 300).astype(float)
    better = np.where(draw.random(300) < 0.2, 1.0, first)
    found = difference(ratios(first), ratios(better), names(300))
    assert found.value == pytest.approx(100 * (better.mean() - first.mean()))
    assert found.low > 0 and found.p < 0.002
    back = difference(ratios(better), ratios(first), names(300))
    assert back.value == -found.value and back.p < 0.002
    same = difference(ratios(first), ratios(first), names(300))
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    shuffled = first.copy()
    flips = draw.choice(300, 60, replace=False)
    shuffled[flips] = 1 - shuffled[flips]
    unknown = difference(ratios(first), ratios(shuffled), names(300))
    assert unknown.low < unknown.value < unknown.high and unknown.p > 0.05


def figure(family, questions):
    return sum(100 * n.sum() / d.sum() for n, d in family(questions))


def test_f1_of_yes_counts_a_question_for_each_of_its_categories():
    said = [(True, True, "a"), (True, False, "a,b"), (False, True, "a"), (False, False, "a")]
    questions = [Question(str(i), 0, stated=s, true=t, category=c) for i, (s, t, c) in enumerate(said)]
    assert figure(f1_ratio, questions) == pytest.approx(100 * 2 * 1 / (2 + 3))


def test_mme_adds_accuracy_and_that_of_whole_images_by_category():
    """color: 3 of 4 right, 1 of 2 images whole; count: all; reasoning is not in the headline."""
    rows = [("color", "x", 1), ("color", "x", 1), ("color", "y", 1), ("color", "y", 0)]
    rows += [("count", "x", 1), ("count", "x", 1), ("code_reasoning", "x", 0)]
    questions = [Question(str(i), v, group=g, category=c) for i, (c, g, v) in enumerate(rows)]
    assert figure(mme_ratios, questions) == pytest.approx(75 + 50 + 100 + 100)


def test_every_family_reads_the_kit_s_rows():
    """Rows as the kit's files hold them (test_real_kit.py has them from the kit itself)."""
    rows = {
        "choice": ({"index": 3, "hit": 1}, 1),
        "yes_no": ({"index": 3, "score": True, "extracted": "Yes", "answer": "Yes"}, 1),
        "docvqa": ({"index": 3, "eval_match": "[0.4, 0.9]"}, 0.6),
        "chartqa": ({"index": 3, "eval_match": "[False, True]"}, 1),
        "ocrbench": ({"index": 3, "category": "x", "answer": "['Stop']", "prediction": "It says\nSTOP"}, 1),
        "mmvet": ({"index": 3, "score": 0.3}, 0.3),
        "local": ({"index": 3, "score": "0.5", "group": "g"}, 0.5),
    }
    for name, (row, value) in rows.items():
        question = FAMILIES[name].question(row)
        assert (question.id, question.value) == ("3", pytest.approx(value)), name
    assert FAMILIES["docvqa"].question({"index": 1, "eval_match": "[0.6]"}).value == 0  # below a half is nothing
    assert figure(mean_ratio, [Question("a", 1.0), Question("b", 0.0)]) == 50
    maths = {"index": 1, "question_type": "free_form", "answer_type": "float", "answer": "2.50", "res": "2.5"}
    assert FAMILIES["mathvista"].question(maths).value == 1
    assert FAMILIES["mathvista"].question({**maths, "res": "none"}).value == 0

"""Mistakes are as many as they should be, and an answer that is wrong has a whole chain to it."""

from __future__ import annotations

import random

import pytest

from sicog.chains import COT, parse
from sicog.mini.mistakes import mistaken_answer, mistaken_scene
from sicog.mini.questions import QUESTION_TYPES, all_questions, question_text
from sicog.mini.reasoning import cot_text
from sicog.mini.scene import UNLABELLED, draw_scene

SCENES = [draw_scene(5, "unlabelled", k, UNLABELLED) for k in range(150)]


def test_no_rate_changes_nothing_and_a_rate_changes_its_share():
    rng = random.Random(0)
    assert all(mistaken_scene(scene, 0.0, rng) == scene for scene in SCENES)
    kept = [
        t.attributes in {u.attributes for u in s.things} for s in SCENES for t in mistaken_scene(s, 0.4, rng).things
    ]
    assert 0.5 < sum(kept) / len(kept) < 0.7
    for scene in SCENES:
        seen = mistaken_scene(scene, 0.7, rng)
        assert len({seen.region(t) for t in seen.things}) == len(seen.things) == len(scene.things)
        assert [(seen.row(t), seen.column(t)) for t in seen.things] == sorted(
            (seen.row(t), seen.column(t)) for t in seen.things
        )


@pytest.mark.parametrize("type_", QUESTION_TYPES)
def test_every_question_can_be_answered_wrongly(type_):
    rng = random.Random(1)
    for scene in SCENES:
        question = rng.choice(all_questions(scene, type_, name_held_out=True))
        seen, wrong = mistaken_answer(scene, question, rng)
        assert question_text(wrong) == question_text(question) and wrong.answer != question.answer
        assert parse(COT, cot_text(seen, wrong))[-1] == wrong.answer


def test_a_comparison_of_things_that_are_named_in_part_can_be_turned_round():
    """Of two things among many, a mistake must touch just these two: taking one for the other does."""
    rng = random.Random(2)
    for scene in SCENES:
        for question in all_questions(scene, "compare", name_held_out=True)[:4]:
            assert mistaken_answer(scene, question, rng)[1].answer != question.answer

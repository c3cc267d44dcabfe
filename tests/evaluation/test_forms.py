"""How questions are asked: one table of forms; the wording is that of training where there is one."""

import math

import pytest

from sicog.evaluation.forms import FORMS, LETTER, final_answer
from sicog.records import Query
from sicog.tasks import REASONING, SHORT_ANSWER, STEP_BY_STEP


@pytest.mark.parametrize("form", ["yes_no", "short", "document", "chart"])
@pytest.mark.parametrize("style", ["direct", "cot"])
def test_short_answers_are_asked_for_as_in_training(form, style):
    """One spelling for training, sampling and evaluation; a question that brings its own sentence has it once."""
    prompt = FORMS[form].prompt({"question": "How many?"}, style)
    assert prompt == REASONING.prompt(Query(id="q", task="reasoning", question="How many?"), style)
    assert FORMS[form].prompt({"question": f"How many? {SHORT_ANSWER}"}, style) == prompt


def test_options_stand_under_their_letters_and_empty_ones_are_left_out():
    row = {"question": "Which?", "A": "red", "B": "blue", "C": math.nan, "D": "", "hint": "Look up."}
    assert FORMS["choice"].prompt(row, "direct") == f"Look up.\nWhich?\nA. red\nB. blue\n{LETTER}"
    assert FORMS["choice"].prompt(row, "cot").endswith(f"B. blue\n{STEP_BY_STEP}")
    with pytest.raises(ValueError, match="row 7: a question of form 'choice' has no options"):
        FORMS["choice"].prompt({"question": "Which?", "index": 7}, "direct")


def test_braces_in_a_question_are_text():
    assert FORMS["ocr"].prompt({"question": "Read {options} {question}"}, "direct") == "Read {options} {question}"


def test_the_conclusion_of_a_chain_is_scored_and_a_broken_chain_as_written():
    chain = "\n\n".join(f"Step {k}: heading\nbody {k}" for k in (1, 2, 3, 4))
    assert final_answer(chain, "cot") == "body 4"
    assert final_answer(chain, "direct") == chain
    assert final_answer("Step 1: heading\nbody", "cot") == "Step 1: heading\nbody"

"""tasks.py: prompts by style, and what is compared."""

import pytest

from sicog.chains import COT, ChainError, render
from sicog.records import Query
from sicog.tasks import CAPTIONING, REASONING

QUERY = Query(id="q", task="reasoning", images=("a.png",), question="How many cats? Answer the question step-by-step.")


def test_the_step_by_step_sentence_is_there_once_and_only_for_chains():
    assert REASONING.prompt(QUERY, "cot") == "How many cats? Answer the question step-by-step."
    assert REASONING.prompt(QUERY, "direct") == "How many cats? Answer the question using a single word or phrase."
    assert REASONING.prompt(QUERY, "plain") == "How many cats?"
    bare = QUERY.model_copy(update={"question": "How many cats?"})
    assert REASONING.prompt(bare, "cot") == REASONING.prompt(QUERY, "cot")


def test_unknown_styles_and_missing_questions_are_named():
    with pytest.raises(ValueError, match="unknown captioning style 'cot'; known: cod, cod-conv, dd"):
        CAPTIONING.style("cot")
    with pytest.raises(ValueError, match="query q has no question, which style 'cot' needs"):
        REASONING.prompt(QUERY.model_copy(update={"question": " "}), "cot")


def test_braces_in_a_question_stay_text():
    odd = QUERY.model_copy(update={"question": "What is {0} in {question}?"})
    assert REASONING.prompt(odd, "plain") == "What is {0} in {question}?"


def test_compared_is_the_body_of_the_last_step_or_the_whole_text():
    assert REASONING.compared(render(COT, ("a", "b", "c", "two\n\nlines")), "cot") == "two\n\nlines"
    assert REASONING.compared(" two \n", "direct") == "two"
    with pytest.raises(ChainError):
        REASONING.compared("two", "cot")
    with pytest.raises(ChainError, match="empty"):
        CAPTIONING.compared("  ", "dd")


@pytest.mark.parametrize("between", ["\n", "\n\n", "\r\n", " \n \n"])
def test_every_paragraph_of_the_last_step_is_compared_whatever_follows_the_heading(between):
    """The original's patterns lose a paragraph, or the whole text before the last newline, in some of these."""
    text = "\n\n".join(f"Step {k}: Some heading of step 4.{between}body {k}" for k in range(1, 5))
    assert REASONING.compared(f"{text}\n\nThe answer is B.\n\nExtra", "cot") == "body 4\n\nThe answer is B.\n\nExtra"
    text = "\n".join(f"Step {k}: Heading.{between}body {k}" for k in range(1, 6))
    assert CAPTIONING.compared(f"{text}\nmore\n\nand more\n", "cod") == "body 5\nmore\n\nand more"


@pytest.mark.parametrize("text", ["Step 5: A cup\n\nIt is red.", "A cup. Step 1: none\nred", "first\n\nsecond\nthird"])
def test_styles_without_steps_are_compared_whole_whatever_they_say(text):
    assert CAPTIONING.compared(text, "dd") == REASONING.compared(f"{text}\n", "plain") == text

"""tasks.py: prompts by style, what is compared, and answers for voting."""

import pytest

from sicog.chains import COT, ChainError, render
from sicog.records import Query
from sicog.tasks import CAPTIONING, REASONING, normalise_answer

QUERY = Query(id="q", task="reasoning", images=("a.png",), question="How many cats? Answer the question step-by-step.")


def test_the_step_by_step_sentence_is_there_once_and_only_for_chains():  # D-C24
    assert REASONING.prompt(QUERY, "cot") == "How many cats? Answer the question step-by-step."
    assert REASONING.prompt(QUERY, "direct") == "How many cats? Answer the question using a single word or phrase."
    assert REASONING.prompt(QUERY, "plain") == "How many cats?"
    bare = QUERY.model_copy(update={"question": "How many cats?"})
    assert REASONING.prompt(bare, "cot") == REASONING.prompt(QUERY, "cot")


def test_unknown_styles_and_missing_questions_are_named():  # D-U18
    with pytest.raises(ValueError, match="unknown captioning style 'cot'; known: cod, cod-conv, dd"):
        CAPTIONING.style("cot")
    with pytest.raises(ValueError, match="query q: style 'cot' needs a question"):
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


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is: Two.", "2"),
        ("the final answer is B", "b"),
        (" A red circle! ", "red circle"),
        ("yes", "yes"),
        ("A", "a"),
        ("The answer is A.", "a"),
        ("Answer: A", "a"),
        ("Yes.", "yes"),
        ("1,000", "1 000"),
        ("", ""),
    ],
)
def test_answers_are_normalised_for_voting(text, answer):  # D-C18
    assert normalise_answer(text) == answer

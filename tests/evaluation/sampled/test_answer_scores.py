"""Our own scorers of open answers, on cases worked out by hand."""

import pytest

from sicog.evaluation.sampled.answer_scores import accepted_answers, levenshtein_distance, score_answer


@pytest.mark.parametrize(
    ("form", "prediction", "answers", "score"),
    [
        ("short", "The answer is: Two.", ["2"], 1),
        ("short", "three", ["2"], 0),
        ("short", "None", ["none"], 1),
        ("chart", "104.9", ["100"], 1),  # within 5 % of the true value
        ("chart", "105.1", ["100"], 0),
        ("chart", "1,040 ", ["$1000"], 1),
        ("chart", "42%", ["42"], 1),
        ("chart", "0", ["0"], 1),
        ("chart", "0.01", ["0"], 0),
        ("chart", "Blue", ["blue."], 1),
        ("chart", "nan", ["5"], 0),
        ("document", "Invoice 12", ["invoice  12"], 1),
        ("document", "Invoice 13", ["Invoice 12"], 0.9),  # one of ten characters
        ("document", "abcd", ["abxy"], 0.5),
        ("document", "abcd", ["axyz"], 0),  # below a half is nothing
        ("document", "", ["x"], 0),
        ("ocr", "It says STOP here", ["stop"], 1),
        ("ocr", "It says ST OP", ["stop"], 0),
        ("ocr", "anything", [""], 0),  # an empty text is in every text
        ("ocr", "left", ["right", "left"], 1),  # the best of several
    ],
)
def test_a_score(form, prediction, answers, score):
    assert score_answer(form, prediction, answers) == pytest.approx(score)


def test_a_form_without_a_scorer_is_refused():
    with pytest.raises(ValueError, match="form 'open' has no offline scorer. Use one of: short, document"):
        score_answer("open", "a", ["a"])


def test_a_cell_may_list_answers_and_is_never_run():
    assert accepted_answers("['a b', \"c\"]") == ["a b", "c"]
    assert accepted_answers('["a", 2]') == ["a", "2"]
    assert accepted_answers("[unclosed") == ["[unclosed"]
    assert accepted_answers("[__import__('os')]") == ["[__import__('os')]"]
    assert accepted_answers(12) == ["12"]


@pytest.mark.parametrize(("one", "other", "n"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0)])
def test_levenshtein(one, other, n):
    assert levenshtein_distance(one, other) == levenshtein_distance(other, one) == n

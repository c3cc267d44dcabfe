"""answers.py: which texts give the same final answer, which must not, and what an encoder is shown of a conclusion."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicog.answers import final_answer, without_boilerplate
from sicog.numbers import number_at_start

COLOR = "What color is the cup?"
LISTED = "What is it? (A) blue (B) dark red (C) 1,000 (D) none of these"
LINES = "Pick one.\nA. blue\nB. dark red\nC: 2 cups\nAnswer with the letter."

# One answer a line: the question, and the texts that give it.
SAME = [
    ("", ["1000", "1,000", "1000.0", "one thousand", "a thousand", "1e3", "The answer is 1,000."]),
    ("", ["0.5", ".5", "1/2", "one half", "a half", "½", "Half.", "\\frac{1}{2}"]),
    ("", ["2.5", "2½", "2 1/2", "5/2"]),
    ("", ["50%", "50 %", "50 percent", "fifty percent", "50 per cent"]),
    ("", ["21", "twenty-one", "Twenty one", "**21**", "\\boxed{21}", "$21$", "\\(21\\)", "\\text{21}"]),
    ("", ["205", "two hundred and five", "Two hundred five."]),
    ("", ["1500000", "1.5 million", "1,500,000", "1.5M"]),
    ("", ["-3", "−3", "minus three", "minus 3", "negative 3"]),
    (
        "",
        [
            "12",
            "twelve",
            "a dozen",
            "The answer is 12, which is the total.",
            "The answer is 12, in total, so she is right.",
        ],
    ),
    ("", ["5 cm", "5cm", "5 centimeters", "five centimetres", "It is 5 cm."]),
    ("How long is it in cm?", ["5 cm", "5", "five centimeters"]),
    ("How long is it in m?", ["5 m", "5", "five metres"]),
    ("", ["$5", "5 dollars", "$5.00", "five dollars"]),
    ("", ["90°", "90 degrees"]),
    ("How many cats are in the image?", ["3", "three", "3 cats", "There are three cats.", "Three cats in the image"]),
    ("", ["A", "a", "(A)", "A.", "a)", "Answer: A", "The answer is (A).", "Option A", "The correct option is A."]),
    (LISTED, ["A", "(A)", "A. blue", "(A) blue", "A: Blue.", "blue", "The answer is A.", "The answer is blue."]),
    (
        LISTED,
        ["B", "dark red", "B) dark red", "Dark red.", "The correct answer is B. It barks.", "B is correct."]
        + ["The correct answer is B. Here's why: a long story.", "$\\boxed{B}$", "<answer>B</answer>"]
        + ["Option B is the right answer.", "B\nExplanation: it is dark."]
        + ["B dark red", "B, dark red", "Option B dark red", "A dark red"],
    ),
    (LISTED, ["C", "1000", "one thousand", "C. 1000"]),
    (LINES, ["C", "2 cups", "two cups", "C. two cups"]),
    ("", ["yes", "Yes.", "Yes, it is.", "Yes, the cup is red.", "The answer is yes.", "Yeah"]),
    ("Is it red?", ["no", "No.", "No, it is not.", "No it is blue"]),
    ("In the image, is there a cat?", ["yes", "Yes, there is.", "Yes - a cat", "Yes I can see it."]),
    ("The image shows a cat, right?", ["no", "No, it does not."]),
    ("Please answer yes or no: is it a cat?", ["yes", "Yes, it is."]),
    ("", ["blue", "Blue.", "It is blue", "It's blue.", "So, it is blue.", '"blue"', "The final answer is: blue"]),
    (COLOR, ["blue", "The color is blue.", "The colour of the cup is blue", "The cup is blue", "It is blue."]),
    ("Where is the cup?", ["on the table", "The cup is on the table.", "It is on table"]),
    ("Is it red or blue?", ["red", "It is red."]),
    ("", ["red circle", "a red circle", "The red circle."]),
    ("", ["gray", "grey"]),
    ("", ["t-shirt", "T shirt", "a T-shirt"]),
    (
        "",
        [
            "3",
            "The answer is 3 because there are three cups.",
            "Answer: 3\nIt was easy.",
            "It says 4. <answer> 3 </answer>",
        ],
    ),
]
DIFFERENT = [
    ("", ["5 cm", "5 m", "5", "5%", "5 kg"]),
    ("How many things are in the image?", ["5", "5 inches"]),
    ("", ["50%", "50", "0.5"]),
    ("", ["1", "-1", "10", "1/10", "100"]),
    ("", ["3.5", "3,5", "35"]),
    ("", ["7", "007"]),
    ("", ["3:30", "330"]),
    ("", ["10²", "102", "10"]),
    ("", ["yes", "no", "No parking", "No. 5", "No one", "yes and no"]),
    ("What does the sign say?", ["no", "No parking", "No, parking is free"]),
    ("", ["blue", "It is not blue", "dark blue", "blue and red"]),
    (COLOR, ["blue", "The cup is not blue", "The table is blue"]),
    ("Which is larger, the red cup or the blue cup?", ["The red cup is larger", "The blue cup is larger"]),
    ("Is the cup red?", ["yes", "no", "The cup is red"]),
    ("", ["A", "B", "not A"]),
    (LISTED, ["A", "B", "A. dark red", "D", "none", "E"]),
    (LISTED, ["A", "The answer is A. dark red", "B"]),
    (LISTED, ["A", "B blue and red", "C, or D", "B"]),
    ("", ["1.5 m", "1.5M"]),
    ("Which is larger, is it the cat?", ["yes", "Yes, the cat"]),
    ("Which is larger?", ["The cup, which is red", "The cup, which is blue", "The cup"]),
    ("", ["two three", "23", "5", "6"]),
    ("", ["cat", "cats", "two cats"]),
    ("", ["left", "right", "left of the cup"]),
]


@pytest.mark.parametrize(("question", "texts"), SAME)
def test_the_same_answer(question, texts):
    assert {final_answer(t, question) for t in texts} == {final_answer(texts[0], question)}


@pytest.mark.parametrize(("question", "texts"), DIFFERENT)
def test_another_answer(question, texts):
    answers = [final_answer(t, question) for t in texts]
    assert len(set(answers)) == len(texts), dict(zip(texts, answers, strict=True))


def test_no_two_lines_of_the_table_without_a_question_are_the_same():
    answers = [final_answer(texts[0]) for question, texts in SAME if not question]
    assert len(set(answers)) == len(answers)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_has_an_answer_that_case_space_and_width_do_not_change(text, question):
    answer = final_answer(text, question)
    assert bool(answer) == bool(text.strip())
    assert final_answer(f"  {text}\n", question) == answer
    assert final_answer(final_answer(text)) or not text.strip()


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "{}.0", "It is {}.", "The answer is {:,}."]))
def test_an_integer_is_one_answer_in_any_form(number, form):
    assert final_answer(form.format(number)) == str(number)


@given(st.fractions(min_value=0, max_value=1000, max_denominator=999))
def test_fractions_are_exact(value):
    assert final_answer(f"{value.numerator}/{value.denominator}") == str(value)


@given(st.integers(0, 999_999))
def test_numbers_in_words_are_read(number):
    assert number_at_start(words(number).split()) == (Fraction(number), len(words(number).split()))
    assert final_answer(words(number).replace(" ", "-") if number < 100 else words(number)) == str(number)


def words(n: int) -> str:
    """An integer below a million, in English."""
    small = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    small += [f"{begin}teen" for begin in ("thir", "four", "fif", "six", "seven", "eigh", "nine")]
    tens = ["", "", *(f"{begin}ty" for begin in ("twen", "thir", "for", "fif", "six", "seven", "eigh", "nine"))]
    if n < 20:
        return small[n]
    if n < 100:
        return tens[n // 10] + (f" {small[n % 10]}" if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    return f"{words(n // size)} {name}" + (f" {words(n % size)}" if n % size else "")


@given(st.sampled_from("ABCDEFGH"), st.sampled_from(["{}", "({})", "{}.", "Answer: {}", "The answer is ({})."]))
def test_letters_are_told_apart_in_every_form(letter, form):
    assert final_answer(form.format(letter)) == letter.lower()


def test_numbers_of_any_length_take_no_time():
    for text in ("9" * 5000, "1e99", "1" + ",000" * 400, "1/" + "7" * 500, "a " * 3000, "twenty " * 3000):
        assert final_answer(text)


def test_an_encoder_sees_the_conclusion_without_its_boilerplate():
    assert without_boilerplate("The answer is Red.") == "Red" == without_boilerplate("So, the final answer is: **Red**")
    assert without_boilerplate("Red.\n\nIt is a cup.") == "Red.\n\nIt is a cup"
    assert without_boilerplate("The cup is red") == "The cup is red"
    assert without_boilerplate(".") == "."


def test_the_table_meets_itself_only_where_it_should():
    """Different lines for one question do not meet: the choices of a list are each their own."""
    for _, lines in itertools.groupby(sorted(SAME), key=lambda line: line[0]):
        answers = [final_answer(texts[0], question) for question, texts in lines]
        assert len(set(answers)) == len(answers)

"""chains.py: parse(render(x)) == x, and every departure from a chain is an error that says where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicog.chains import COD, COT, ChainError, parse, render

body = (
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=60).map(str.strip).filter(bool)
)


@pytest.mark.parametrize("chain", [COD, COT])
@given(data=st.data())
def test_parse_undoes_render(chain, data):
    bodies = tuple(data.draw(st.lists(body, min_size=len(chain.headings), max_size=len(chain.headings))))
    assert parse(chain, render(chain, bodies)) == bodies


def test_paragraphs_and_blank_lines_of_a_body_are_kept():
    bodies = ("task", "see", "first\n\nsecond\nthird", "The answer is B.\n\nExtra")
    assert parse(COT, render(COT, bodies)) == bodies
    assert parse(COT, render(COT, bodies).replace("Conclude the task with an answer.", "Conclude."))[-1] == bodies[-1]


@pytest.mark.parametrize(
    ("bodies", "says"),
    [
        (("a", "b", "c"), "4 steps, got 3"),
        (("a", " ", "c", "d"), "step 2 is empty"),
        (("a", "b", "c\nStep 9: no", "d"), "step 3 holds a line"),
        (("a", "b", "c", "d\n"), "step 4"),
    ],
)
def test_render_refuses_what_could_not_be_parsed(bodies, says):
    with pytest.raises(ChainError, match=says):
        render(COT, bodies)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: t.replace("Step 3", "Step 2"), "expected steps 1 to 4"),
        (lambda t: t.split("Step 4")[0], r"found \[1, 2, 3\]"),
        (lambda t: "Sure! " + t, "expected steps"),
        (lambda t: "Sure!\n" + t, "text before step 1"),
        (lambda t: t.replace("\nd", "\n"), "step 4 is empty"),
        (lambda t: "no chain at all", "found none"),
    ],
)
def test_parse_says_where_a_text_departs(edit, says):
    with pytest.raises(ChainError, match=says):
        parse(COT, edit(render(COT, ("a", "b", "c", "d"))))

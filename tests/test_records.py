"""records.py: what is not well-formed cannot be made."""

import pytest
from pydantic import ValidationError

from sicog.records import Candidate, CandidateOrigin, CandidateSet, Example, PreferencePair, Query, Turn

USER, ASSISTANT = Turn(role="user", text="hi", images_at=(0,)), Turn(role="assistant", text="yo")


def test_an_example_round_trips_with_unicode_and_extra():
    example = Example(id="1", images=("ü/a b.png",), turns=(USER, ASSISTANT), extra={"note": "<image> is text here"})
    assert Example.model_validate_json(example.model_dump_json()) == example


@pytest.mark.parametrize(
    "fields",
    [
        {"turns": (USER, ASSISTANT)},  # a position without an image
        {"images": ("a", "b"), "turns": (USER, ASSISTANT)},
        {"images": ("a",), "turns": (USER,)},
        {"images": ("a",), "turns": (USER, ASSISTANT, ASSISTANT)},
        {"images": ("a",), "turns": ()},
        {"images": ("a",), "turns": (USER, ASSISTANT), "unknown": 1},
    ],
)
def test_malformed_examples_are_refused(fields):
    with pytest.raises(ValidationError):
        Example(id="1", **fields)


def test_images_stand_inside_user_turns_only():
    with pytest.raises(ValidationError, match="images_at"):
        Turn(role="user", text="ab", images_at=(3,))
    with pytest.raises(ValidationError, match="user turns"):
        Turn(role="assistant", text="ab", images_at=(0,))


def test_candidates_belong_to_their_query():
    candidate = Candidate(
        query_id="other",
        style="cot",
        prompt="p",
        index=0,
        seed=1,
        text="t",
        finish_reason="stop",
        n_tokens=1,
        checkpoint="c",
    )
    with pytest.raises(ValidationError, match="other queries"):
        CandidateSet(id="q", query=Query(id="q", task="reasoning", question="?"), candidates=(candidate,))


def test_a_pair_needs_two_texts():
    with pytest.raises(ValidationError, match="same text"):
        PreferencePair(id="1", prompt=(Turn(role="user", text="p"),), chosen="a", rejected="a")
    with pytest.raises(ValueError, match="1 images but 0 image positions"):
        PreferencePair(id="1", images=("a.png",), prompt=(Turn(role="user", text="p"),), chosen="a", rejected="b")


def test_the_origin_of_an_example_is_read_from_whatever_its_extra_holds():
    def origin(**extra):
        return Example(id="1", images=("a",), turns=(USER, ASSISTANT), extra=extra).origin

    given = {"style": "cod", "index": 1, "seed": 0, "checkpoint": "c", "score": 1, "agreement": 0.5, "k": 3}
    assert origin(**given) == CandidateOrigin(**{**given, "score": 1.0})
    users_own = {
        "style": 3,
        "index": "first",
        "seed": True,
        "score": "high",
        "vote": float("nan"),
        "k": 2.5,
        "of": None,
    }
    assert origin(**users_own) == origin() == CandidateOrigin()

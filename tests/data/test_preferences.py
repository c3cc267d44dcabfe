"""Users' preference rows in every published form, and parts of several sources as one list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sicog.data.mixture import Source
from sicog.data.preferences import PairSource, parse_pair
from sicog.formats import RowError
from sicog.records import Dropped, PreferencePair, Turn
from sicog.stages.storage import write_dataset

USER = {"role": "user", "content": "How many?"}
TWO, THREE = {"role": "assistant", "content": "two"}, {"role": "assistant", "content": "three"}
PLAIN = (Turn(role="user", text="How many?", images_at=(0,)),)
PARTS = [{"type": "image"}, {"type": "text", "text": "How many?"}]
URLS = [
    {"type": "image_url", "image_url": {"url": "a.png"}, "text": None},
    {"type": "text", "text": None},
    {"type": "text", "text": "How many?"},
]
FORMS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "How many?", "chosen": "two", "rejected": "three"},
    "a marker": {"prompt": "<image>\nHow many?", "chosen": "two", "rejected": "three"},
    "question": {"question": "How many?", "chosen": "two", "rejected": "three"},
    "messages": {"prompt": [USER], "chosen": [TWO], "rejected": [THREE]},
    "parts": {"prompt": [{"role": "user", "content": PARTS}], "chosen": [TWO], "rejected": [THREE]},
    "the prompt in both": {"chosen": [USER, TWO], "rejected": [USER, THREE]},
    "the prompt in all": {"prompt": "How many?", "chosen": [USER, TWO], "rejected": [USER, THREE]},
    "nulls": {"prompt": "", "question": "How many?", "conversations": None, "chosen": "two", "rejected": "three"}
    | {"image": None, "images": ["a.png"], "output_1": None, "output_2": None, "preference": None},
    "parts with nulls": {"prompt": [{"role": "user", "content": URLS}], "chosen": [TWO], "rejected": [THREE]},
    "LLaVA-RLHF": {
        "conversations": [{"from": "human", "value": "<image>\nHow many?"}],
        "output_1": {"from": "llm", "value": "three"},
        "output_2": {"from": "llm", "value": "two"},
        "preference": 2,
    },
}


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS.keys())
def test_published_forms(row: dict[str, Any]) -> None:
    pair = parse_pair({"image": "a.png", **row}, "7")
    assert pair == PreferencePair(id="7", images=("a.png",), prompt=PLAIN, chosen="two", rejected="three")


def test_a_marker_in_an_answer_is_text() -> None:
    pair = parse_pair({"prompt": "Say it", "image": "a.png", "chosen": "<image> it is", "rejected": "<image>"}, "1")
    assert (pair.images, pair.chosen, pair.rejected) == (("a.png",), "<image> it is", "<image>")
    assert sum(len(turn.images_at) for turn in pair.turns(pair.chosen)) == 1
    assert parse_pair({"prompt": "Say it", "chosen": "<image>", "rejected": "no"}, "1").images == ()


def test_several_turns_and_images_keep_their_places() -> None:
    prompt = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "<image>This and <image>that?"}]
    prompt += [{"role": "assistant", "content": "yes"}, USER]
    pair = parse_pair({"prompt": prompt, "images": ["a.png", "b.png"], "chosen": "two", "rejected": "three"}, "1")
    assert [turn.role for turn in pair.turns("x")] == ["system", "user", "assistant", "user", "assistant"]
    assert pair.prompt[1] == Turn(role="user", text="This and that?", images_at=(0, 9))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": "three"}, "same_answers"),
        ({"chosen": " "}, "empty_answer"),
        ({"chosen": None}, "malformed_row"),
        ({"chosen": [{"role": "assistant", "content": None}]}, "malformed_turn"),
        ({"prompt": None}, "no_prompt"),
        ({"prompt": [USER, TWO]}, "no_prompt"),
        ({"chosen": [USER, TWO]}, "prompts_differ"),
        ({"chosen": [TWO, USER, TWO], "rejected": [TWO, USER, THREE]}, "turn_order"),
        ({"chosen": [USER]}, "turn_order"),
        ({"prompt": "<image><image>How many?"}, "marker_count"),
        ({"prompt": [USER, USER]}, "turn_order"),
        ({"output_1": "a", "output_2": "b", "preference": 0}, "no_preference"),
    ],
)
def test_rows_that_are_no_pair_say_why(changes: dict[str, Any], reason: str) -> None:
    row = {"prompt": "How many?", "chosen": "two", "rejected": "three", "image": "a.png", **changes}
    with pytest.raises(RowError) as caught:
        parse_pair(row, "1")
    assert caught.value.reason == reason


def test_parts_of_sources_and_rows_that_cannot_be_read(tmp_path: Path) -> None:
    rows: list[Any] = [{"id": i, "prompt": "p", "chosen": f"c{i}", "rejected": "r"} for i in range(6)]
    rows[1]["chosen"] = "r"
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    prompt = (Turn(role="user", text="p"),)
    ours = [PreferencePair(id=f"o{i}", prompt=prompt, chosen="a", rejected="b") for i in range(3)]
    write_dataset(tmp_path / "ours", ours)
    sources = [
        Source(path=tmp_path / "rows.json", take="end:2"),
        Source(path=tmp_path / "ours", take="first:2", weight=1.5),
    ]
    pairs = PairSource(sources, seed=0)
    found = list(pairs.read(0, 100))
    assert [row.id for row in found] == ["1", "4", "5", "o0", "o1", "o1"] and len(pairs) == 6 and pairs.left == 4
    assert isinstance(found[0], Dropped) and found[0].reason == "same_answers"
    for start in range(7):  # any range by itself, as after a kill
        for stop in range(start, 8):
            assert list(pairs.read(start, stop)) == found[start:stop]
    with pytest.raises(ValueError, match=r"pairs\.csv is not a data source"):
        PairSource([Source(path=tmp_path / "pairs.csv")], seed=0)

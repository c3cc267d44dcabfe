"""formats.py: published files in, records out; a bad row is dropped with its reason and the rest goes on."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicog.formats import (
    RowError,
    ensure_marker,
    parse_example,
    read_llava,
    read_queries,
    tagged_sections,
    to_llava,
    write_llava,
)
from sicog.records import Dropped, Example


def row(question="<image>\nWhat?", answer="That.", image="a.png", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": 7, "conversations": turns, **({"image": image} if image else {}), **more}


def test_a_llava_row_becomes_an_example():
    example = parse_example(row(origin="web"), "7")
    assert example.images == ("a.png",)
    assert [(t.role, t.text, t.images_at) for t in example.turns] == [
        ("user", "What?", (0,)),
        ("assistant", "That.", ()),
    ]
    assert example.extra == {"origin": "web"}


@pytest.mark.parametrize("question", ["What?<image>", "<image>What?", "Wh<image>at?", "<image>\n What? "])
def test_a_single_marker_goes_to_the_front(question):
    turn = parse_example(row(question), "7").turns[0]
    assert (turn.text, turn.images_at) == ("What?", (0,))


def test_several_images_keep_their_places():
    example = parse_example(row("Compare <image> and <image>.", image=["a.png", "b.png"]), "7")
    assert example.turns[0].text == "Compare  and ."
    assert example.turns[0].images_at == (8, 13)
    front = parse_example(row("<image><image>\nWhich?", image=["a.png", "b.png"]), "7")
    assert (front.turns[0].text, front.turns[0].images_at) == ("Which?", (0, 0))


def test_a_marker_in_an_answer_is_text():  # D-C9, D-C40
    assert parse_example(row(answer="the tag <image>"), "7").turns[1].text == "the tag <image>"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("What?"), "marker_count"),  # D-C10: an image nobody would see
        (row(image=None), "marker_count"),
        (row("<image> <image>"), "marker_count"),
        (row(image=3), "malformed_image"),
        ({"id": 1}, "no_turns"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "turn_order"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "malformed_turn"),
        ({"conversations": [{"from": "human", "value": None}]}, "malformed_turn"),
        (row("<image>", " "), "no_words"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(bad, reason):
    with pytest.raises(RowError) as error:
        parse_example(bad, "1")
    assert error.value.reason == reason


def test_sharegpt_keys_and_a_leading_gpt_turn_are_read():
    turns = [
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
    ]
    assert [t.text for t in parse_example({"messages": turns}, "1").turns] == ["Q", "A"]


texts = (
    st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda t: "<image>" not in t).map(str.strip).filter(bool)
)


@given(question=texts, answer=texts, extra=st.dictionaries(st.just("note"), texts))
def test_llava_round_trip(question, answer, extra):
    example = parse_example(row("<image>\n" + question, answer, **extra), "7")
    assert parse_example(to_llava(example), "7") == example


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_files_stream_in_order_with_bad_rows_dropped(tmp_path, suffix):
    rows = [row(), {"id": "x"}, row(image=None), 5, {**row(), "id": None}]
    path = tmp_path / f"data.{suffix}"
    path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    source = read_llava(path)
    records = list(source)
    assert len(source) == 5
    assert [type(r) for r in records] == [Example, Dropped, Dropped, Dropped, Example]
    assert [r.id for r in records] == ["7", "x", "7", "3", "4"]
    assert records[1].detail.startswith(f"data.{suffix}:2: ")
    assert list(source.read(1, 3)) == records[1:3]


def test_a_jsonl_cut_anywhere_loses_one_row(tmp_path):  # R3
    lines = [json.dumps(row(id_=i)).encode() for i in range(4)]
    for cut in (1, 5, 40):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(b"\n".join([lines[0], lines[1][:-cut], lines[2], b'{"id": "\xff"}']))
        assert [type(r) for r in read_llava(path)] == [Example, Dropped, Example, Dropped]


def test_a_cut_json_list_names_the_row(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps([row(), row()])[:-30])
    with pytest.raises(ValueError, match="cut or broken after row 1"):
        list(read_llava(path))


def test_queries_take_the_first_human_turn(tmp_path):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([row("<image>\nWhat?"), {"id": "n", "image": "b.png"}]))
    reasoning, captioning = list(read_queries(path, "reasoning")), list(read_queries(path, "captioning"))
    assert reasoning[0].question == "What?"
    assert reasoning[1].reason == "no_question"
    assert [q.images for q in captioning] == [("a.png",), ("b.png",)]


def test_written_files_read_back(tmp_path):
    examples = [parse_example(row(), "7"), parse_example(row("Hello", image=None), "8")]
    assert write_llava(tmp_path / "o" / "x.json", examples) == 2
    assert list(read_llava(tmp_path / "o" / "x.json")) == examples


def test_a_missing_marker_is_put_in_front_of_the_first_question():
    assert ensure_marker(row("What?"))["conversations"][0]["value"] == "<image>\nWhat?"
    assert ensure_marker(row()) == row()


TEXT = "<SUMMARY> s </SUMMARY> <CAPTION>c\n\nc</CAPTION><REASONING>r</REASONING><CONCLUSION>B</CONCLUSION>"
TAGS = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")


def test_tagged_sections():
    assert tagged_sections(TEXT, TAGS) == ("s", "c\n\nc", "r", "B")


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t.replace("<CAPTION>", ""),
        lambda t: t.replace("</CAPTION>", ""),
        lambda t: t + "<CAPTION>again</CAPTION>",
        lambda t: t.replace("<REASONING>r", "<REASONING> "),
        lambda t: t.replace("c</CAPTION><REASONING>", "c<REASONING></CAPTION>"),
        lambda t: t.replace("B", "<b>").replace("<b>", "<B>"),
    ],
)
def test_missing_repeated_nested_or_empty_tags_are_refused(edit):  # D-C2
    with pytest.raises(RowError):
        tagged_sections(edit(TEXT), TAGS)

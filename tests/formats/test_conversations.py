"""formats.py: published files in, records out; a bad row is dropped with its reason and the rest goes on."""

import json
import pickle
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.data.rows.row_kinds import CANDIDATES, CAPTIONS, EXAMPLES, IMAGES, PAIRS, QUESTIONS, _kind_of_row
from sicog.formats import (
    FileSource,
    RawRow,
    RowError,
    ensure_marker,
    json_rows,
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


def test_a_marker_in_an_answer_is_text():
    assert parse_example(row(answer="the tag <image>"), "7").turns[1].text == "the tag <image>"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("What?"), "marker_count"),  # an image nobody would see
        (row(image=None), "marker_count"),
        (row("<image> <image>"), "marker_count"),
        (row(image=3), "malformed_image"),
        ({"id": 1}, "no_turns"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "turn_order"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "malformed_turn"),
        ({"conversations": [{"from": "human", "value": None}]}, "malformed_turn"),
        (row("<image>", " "), "no_words"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "malformed_turn"),
        ({"conversations": [{"from": {}, "value": "x"}]}, "malformed_turn"),
        (row("What?", image=None, video="a.mp4"), "video"),
        (row("<video>\nWhat?", image=None), "video"),
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


def test_a_leading_gpt_turn_of_a_llava_row_is_left_out():  # kept although odd: docs/differences.md
    turns = [{"from": "gpt", "value": "Hello!"}, *row()["conversations"]]
    assert parse_example({**row(), "conversations": turns}, "7") == parse_example(row(), "7")
    assert ask({**row(), "conversations": turns}).question == "What?"


def test_a_video_that_is_null_and_the_word_in_an_answer_are_no_video():
    assert parse_example(row(answer="a <video> tag", video=None), "7").turns[1].text == "a <video> tag"


texts = (
    st.text(st.characters(codec="utf-8"), max_size=20)
    .filter(lambda t: "<image>" not in t and "<video>" not in t)
    .map(str.strip)
    .filter(bool)
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


def test_a_jsonl_cut_anywhere_loses_one_row(tmp_path):
    lines = [json.dumps(row(id_=i)).encode() for i in range(4)]
    for cut in (1, 5, 40):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(b"\n".join([lines[0], lines[1][:-cut], lines[2], b'{"id": "\xff"}']))
        assert [type(r) for r in read_llava(path)] == [Example, Dropped, Example, Dropped]


def test_a_cut_json_list_names_the_row(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps([row(), row()])[:-30])
    with pytest.raises(ValueError, match="cut off or damaged after row 1"):
        list(read_llava(path))


def test_queries_take_the_first_human_turn(tmp_path):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([row("<image>\nWhat?"), {"id": "n", "image": "b.png"}]))
    reasoning, captioning = list(read_queries(path, "reasoning")), list(read_queries(path, "captioning"))
    assert reasoning[0].question == "What?"
    assert reasoning[1].reason == "no_question"
    assert [q.images for q in captioning] == [("a.png",), ("b.png",)]


def ask(fields, task="reasoning"):
    return read_queries(None, task).parse(fields, "7")


def test_queries_keep_the_keys_that_no_field_holds():
    query = ask({**row(origin="web", note={"a": 1}), "messages": []})
    assert query.extra == {"origin": "web", "note": {"a": 1}}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"img": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}, "marker_count"),
        (row("<image><image>\nWhich?"), "marker_count"),
        (row("<image>\nWhich?", image=["a.png", "b.png"]), "marker_count"),
        (row(video="a.mp4"), "video"),
        (row("<video> What?"), "video"),
    ],
)
def test_a_query_that_would_be_asked_blind_is_refused(fields, reason):
    for task in ("captioning", "reasoning"):
        with pytest.raises(RowError) as error:
            ask(fields, task)
        assert error.value.reason == reason


def test_a_query_without_any_marker_keeps_its_images():
    assert ask(row("What?", image=["a.png", "b.png"])).images == ("a.png", "b.png")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Texts and keys that mean something to a parser, and others.
    | st.sampled_from(["", "<image>", "<video>", "a.png", "human", "gpt", "system", "Step 1: x", "text", "image_url"])
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["from", "value", "role", "content", "x", "type", "text", "image", "url"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
KEYS = ("id", "image", "images", "conversations", "messages", "cod_caption", "dd_caption", "video")
KEYS += ("question", "answer", "text", "file_name", "caption", "prompt", "chosen", "rejected")
any_rows = st.dictionaries(st.sampled_from(KEYS), values, max_size=6)


@settings(max_examples=300, deadline=None)
@given(any_rows)
def test_no_row_stops_a_reader(fields):
    parsers = [kind.parse for kind in (EXAMPLES, PAIRS, CAPTIONS, CANDIDATES, IMAGES, QUESTIONS)]
    assert _kind_of_row(fields) is None or _kind_of_row(orjson.dumps(fields)).parse in parsers
    for parse in parsers:
        source = FileSource(Path("x.jsonl"), parse, unique_ids=False)
        record = source._record(0, RawRow(orjson.dumps(fields), "x.jsonl", 1))
        assert orjson.loads(record.model_dump_json())["id"] == record.id


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("depth", [180, 300, 900])
def test_a_row_nested_too_deep_to_be_stored_is_dropped(tmp_path, suffix, depth):
    deep = "[" * depth + "]" * depth
    text = [json.dumps(row()), json.dumps(row(image=None)).replace("7", f'"d", "more": {deep}').replace("<image>", "")]
    path = tmp_path / f"deep.{suffix}"
    path.write_text("\n".join(text) if suffix == "jsonl" else f"[{','.join(text)}]")
    first, second = read_llava(path)
    assert isinstance(first, Example)
    if depth < 190:
        assert Example.model_validate_json(orjson.dumps([[second.model_dump(mode="json")]])[2:-2]) == second
    else:
        assert (second.id, second.reason) == ("d", "malformed_row")


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_consecutive_reads_decode_each_row_once(tmp_path, suffix, monkeypatch):
    n, decoded = 50, []
    rows = [row(id_=i, id=f"r{i}") for i in range(n)]
    path = tmp_path / f"data.{suffix}"
    path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))

    def counted(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            if suffix == "jsonl":
                decoded.append(1)
                return result
            return (decoded.append(1) or item for item in result)

        return call

    if suffix == "json":
        monkeypatch.setattr(json_rows.ijson, "items", counted(json_rows.ijson.items))
    else:
        monkeypatch.setattr(json_rows.orjson, "loads", counted(json_rows.orjson.loads))
    source = read_queries(path, "reasoning")
    size = len(source) // 10
    read = [record for k in range(10) for record in source.read(k * size, (k + 1) * size)]
    assert [r.id for r in read] == [f"r{i}" for i in range(n)]
    assert len(decoded) <= 2 * n


def test_reads_in_any_order_pickled_or_side_by_side_give_the_same_rows(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([row(id=f"r{i}") for i in range(9)]))
    source = read_queries(path, "reasoning")
    assert ids(source.read(0, 3)) == ["r0", "r1", "r2"]
    copy = pickle.loads(pickle.dumps(source))
    assert ids(copy.read(3, 5)) == ids(source.read(3, 5)) == ["r3", "r4"]
    assert ids(source.read(1, 3)) == ["r1", "r2"]
    pairs = zip(source.read(3, 6), source.read(5, 8), strict=True)
    assert [(a.id, b.id) for a, b in pairs] == [("r3", "r5"), ("r4", "r6"), ("r5", "r7")]
    assert ids(source.read(7, None)) == ["r7", "r8"]


def test_a_cut_list_is_an_error_at_every_read(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps([row(), row()])[:-30])
    source = read_llava(path)
    for start in (0, 1):
        with pytest.raises(ValueError, match="cut off or damaged after row 1"):
            list(source.read(start, 2))


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_repeated_id_is_a_drop_whoever_reads_it(tmp_path, suffix):
    rows = [row(), {**row(), "id": None}, row(id="a"), row(id="7"), 5, {**row(), "id": "1"}, row(id="4"), row(id="a")]
    path = tmp_path / f"data.{suffix}"
    path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    records = list(read_queries(path, "reasoning"))
    reasons = [r.reason if isinstance(r, Dropped) else "" for r in records]
    # Row 1 has no id, so its index is its id; row 4 is no row at all and takes none.
    assert reasons == ["", "", "", "duplicate_id", "malformed_row", "duplicate_id", "", "duplicate_id"]
    assert [r.id for r in records] == ["7", "1", "a", "7", "4", "1", "4", "a"]
    for start in range(len(rows)):  # a restart, or another process, begins anywhere
        assert list(read_queries(path, "reasoning").read(start, start + 2)) == records[start : start + 2]


def test_an_id_is_a_text_or_a_number(tmp_path):
    path = tmp_path / "data.json"
    nested = [json.dumps(row(id="X")).replace('"X"', "[" * depth + "]" * depth) for depth in (1, 5000)]
    path.write_text(f"[{json.dumps(row(id=0.5))},{','.join(nested)}]")
    records = list(read_queries(path, "reasoning"))
    assert records[0].id == "0.5"
    assert [(r.id, r.reason) for r in records[1:]] == [("1", "malformed_id"), ("2", "malformed_id")]


def test_training_rows_may_share_an_id(tmp_path):  # llava_v1_5_mix665k names some 250,000 rows after another's image
    path = tmp_path / "mix.json"
    path.write_text(json.dumps([row(), row()]))
    assert [type(r) for r in read_llava(path)] == [Example, Example]


def ids(records):
    return [record.id for record in records]


def test_written_files_read_back(tmp_path):
    examples = [parse_example(row(), "7"), parse_example(row("Hello", image=None), "8")]
    assert write_llava(tmp_path / "o" / "x.json", examples) == 2
    assert list(read_llava(tmp_path / "o" / "x.json")) == examples


def test_a_missing_marker_is_put_in_front_of_the_first_question():
    assert ensure_marker(row("What?"))["conversations"][0]["value"] == "<image>\nWhat?"
    assert ensure_marker(row()) == row()
    assert ensure_marker(row({"a": 1})) == row({"a": 1})  # no text is made of what is none


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
def test_missing_repeated_nested_or_empty_tags_are_refused(edit):
    with pytest.raises(RowError):
        tagged_sections(edit(TEXT), TAGS)


TURNS = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}


def written(path, *rows):
    """JSON texts as a list or as lines."""
    path.write_text("[" + ",\n".join(rows) + "]" if path.suffix == ".json" else "\n".join(rows))
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_null_among_the_rows_is_one_dropped_row(tmp_path, suffix, place):
    rows = [json.dumps({"id": f"r{i}", **TURNS}) for i in range(3)]
    rows.insert(place, "null")
    source = read_llava(written(tmp_path / f"x{suffix}", *rows))
    found = list(source)
    assert len(source) == len(found) == 4 and isinstance(found[place], Dropped)
    assert found[place].detail.endswith("expected an object, got NoneType")
    assert [r.id for r in found if isinstance(r, Example)] == ["r0", "r1", "r2"]
    assert list(source.read(place, None))[1:] == found[place + 1 :]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_integers_beyond_64_bits_are_kept_as_they_are_written(tmp_path, suffix):
    texts = [
        f'{{"id": 123456789012345678901, {json.dumps(TURNS)[1:]}',
        f'{{"id": 123456789012345678902, "n": 99999999999999999999, "x": 1.5, {json.dumps(TURNS)[1:]}',
        f'{{"id": 3, "n": 9223372036854775808, {json.dumps(TURNS)[1:]}',
        f'{{"id": 4, "n": 1e400, {json.dumps(TURNS)[1:]}',
        f'{{"id": 5, {json.dumps(TURNS)[1:]}',
    ]
    found = list(FileSource(written(tmp_path / f"x{suffix}", *texts), parse_example))
    assert [r.id for r in found if isinstance(r, Example)] == [
        "123456789012345678901",
        "123456789012345678902",
        "3",
        "5",
    ]
    assert found[1].extra == {"n": "99999999999999999999", "x": 1.5} and found[2].extra == {"n": 2**63}
    assert found[3].reason == "malformed_row"
    if suffix == ".json":  # as a line it is no JSON at all for the reader
        assert found[3].detail.endswith("the value of 'n' cannot be stored as JSON (a number of it is too large)")


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path, suffix):
    path = written(tmp_path / f"x{suffix}", *(json.dumps({"id": i, **TURNS}) for i in range(2)))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [r.id for r in read_llava(path)] == ["0", "1"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_half_of_a_surrogate_pair_drops_its_row_and_a_whole_one_is_a_letter(tmp_path, suffix):
    odd = [r"\ud800", r"\ud83d\ude00", r"\udc00 \ud800"]
    texts = [f'{{"id": {i}, "z": "{text}", {json.dumps(TURNS)[1:]}' for i, text in enumerate(odd)]
    found = list(read_llava(written(tmp_path / f"x{suffix}", *texts)))
    assert [type(r) for r in found] == [Dropped, Example, Dropped] and found[1].extra == {"z": "\U0001f600"}
    lone = list(read_llava(written(tmp_path / f"id{suffix}", f'{{"id": "\\ud800", {json.dumps(TURNS)[1:]}')))
    assert [type(r) for r in lone] == [Dropped]


NULLS = [
    {"id": 1, "image": "a.png", "images": None, **row(image="")},
    {"id": 2, "image": None, "images": ["a.png"], **row(image="")},
    {"id": 3, "image": [], "images": ["a.png"], **row(image="")},
    {"id": 3, "image": [None], "images": ["a.png", None], **row(image="")},
    {"id": 4, "image": "a.png", "conversations": None}
    | {"messages": [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "That."}]},
    {"id": 5, "image": "a.png", "messages": None}
    | {
        "conversations": [
            {"from": None, "value": None, "role": "user", "content": "<image>\nWhat?"},
            {"from": "gpt", "value": "That.", "role": None, "content": None},
        ]
    },
]


@pytest.mark.parametrize("odd", NULLS)
def test_a_key_with_null_or_an_empty_list_hides_no_other_spelling(odd):
    plain = parse_example(row(), "7")
    assert parse_example(odd, "7") == plain

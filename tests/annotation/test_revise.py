"""revise.py: one annotation, two examples, independent of each other."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sicog.annotation.revise import ReviseConfig, cod_example, cot_example, dd_example, revise, short_example
from sicog.chains import COD, COT, ChainError, parse, render
from sicog.formats import RowError
from sicog.records import Dropped, Example
from sicog.stages.storage import read_json, read_records

ROOT = Path(__file__).parents[2]
BODIES = ("a cat", "it is red", "left of a dog", "grass", "A red cat\n\nstands left of a dog.")
CAPTION_ROW = {
    "id": 1,
    "image": "a.png",
    "caption": "a cat",
    "conversations": [{"from": "human", "value": "<image>\nWhat is there?"}],
    "cod_caption": render(COD, BODIES),
}
ANSWER = "<SUMMARY>s</SUMMARY>\n<CAPTION>c</CAPTION>\n<REASONING>r\n\nr</REASONING>\n<CONCLUSION>B</CONCLUSION>"
REASONING_ROW = {
    "id": "r1",
    "image": "a.png",
    "conversations": [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": ANSWER}],
}


def test_captions():
    cod, dd = cod_example(CAPTION_ROW, "1"), dd_example(CAPTION_ROW, "1")
    assert cod.turns[0].text == "Please generate a detailed caption of this image. Describe the image step-by-step."
    assert parse(COD, cod.turns[1].text) == BODIES
    assert dd.turns[1].text == BODIES[-1]
    assert cod.turns[0].images_at == dd.turns[0].images_at == (0,)
    assert cod_example(CAPTION_ROW, "1", "row").turns[0].text == "What is there? Describe the image step-by-step."
    assert dd_example(CAPTION_ROW, "1", "row").turns[0].text == "What is there?"


def test_reasoning_long_and_short_do_not_touch_each_other():
    before = json.dumps(REASONING_ROW)
    cot, short = cot_example(REASONING_ROW, "r1"), short_example(REASONING_ROW, "r1")
    assert json.dumps(REASONING_ROW) == before
    assert parse(COT, cot.turns[1].text) == ("s", "c", "r\n\nr", "B")
    assert cot.turns[0].text == "Which? Answer the question step-by-step."
    assert short.turns[1].text == "B"
    assert short_example(REASONING_ROW, "r1", "row").turns[0].text == "Which?"
    assert cot.images == short.images == ("a.png",)  # the marker was missing
    assert cot.turns[0].images_at == (0,)


def test_a_row_without_annotation_is_refused():
    with pytest.raises(RowError, match="run the teacher first"):
        cod_example({"image": "a.png"}, "1")


def test_files(tmp_path):
    rows = [{**REASONING_ROW, "id": str(i)} for i in range(30)] + [{**REASONING_ROW, "id": "bad"}]
    rows[-1] = json.loads(json.dumps(rows[-1]).replace("<REASONING>", ""))
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = ReviseConfig(
        task="reasoning", input=tmp_path / "in.jsonl", chain_dir=tmp_path / "cot", plain_dir=tmp_path / "short"
    )
    revise(config)
    for folder in (config.chain_dir, config.plain_dir):
        assert len(list(read_records(folder, Example))) == 30
        assert read_json(folder / "manifest.json")["dropped"] == {"tags": 1}
    assert json.loads((config.chain_dir / "dropped.jsonl").read_text())["id"] == "bad"


def with_question(fields, question, **more):
    return {**fields, "conversations": [{"from": "human", "value": question}, *fields["conversations"][1:]], **more}


@pytest.mark.parametrize(
    ("parser", "fields", "prompts", "reason"),
    [
        (cod_example, {**CAPTION_ROW, "conversations": ["x"]}, "task", "malformed_turn"),
        (cod_example, with_question(CAPTION_ROW, "Answer the question step-by-step."), "row", "no_question"),
        (cod_example, with_question(CAPTION_ROW, "<image><image>\nWhich?"), "task", "marker_count"),
        (cod_example, {**CAPTION_ROW, "video": "a.mp4"}, "task", "video"),
        (cod_example, {**CAPTION_ROW, "cod_caption": {"error": "429"}}, "task", "malformed_annotation"),
        (dd_example, {**CAPTION_ROW, "dd_caption": {"error": "429"}}, "task", "malformed_annotation"),
        (dd_example, {**CAPTION_ROW, "dd_caption": []}, "task", "malformed_annotation"),
        (cot_example, with_question(REASONING_ROW, "<image>"), "task", "no_question"),
        (short_example, with_question(REASONING_ROW, "<image>"), "task", "no_question"),
        (short_example, with_question(REASONING_ROW, {"a": 1}), "row", "malformed_turn"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(parser, fields, prompts, reason):
    with pytest.raises(RowError) as error:
        parser(fields, "1", prompts)
    assert error.value.reason == reason


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Texts that mean something to a parser, and others.
    | st.sampled_from(["", "<image>", "a.png", "human", "gpt", "Which?", ANSWER, render(COD, BODIES), "Step 1: x"])
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["from", "value", "role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
turn = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": values})
turns = st.tuples(turn, turn).map(list) | values
any_rows = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["id", "image", "images", "cod_caption", "dd_caption", "video"], values),
        **dict.fromkeys(["conversations", "messages"], turns),
    },
)


@settings(max_examples=300, deadline=None)
@given(any_rows, st.sampled_from(["task", "row"]))
def test_no_row_stops_a_parser(fields, prompts):
    for parser in (cod_example, dd_example, cot_example, short_example):
        try:
            example = parser(fields, "1", prompts)
        except (RowError, ChainError, ValidationError):  # what the file's reader turns into drops
            continue
        assert Example.model_validate_json(example.model_dump_json()) == example


def test_keys_that_are_not_consumed_are_kept():
    for parser in (cod_example, dd_example):
        assert parser({**CAPTION_ROW, "dd_caption": "A cat.", "url": 3}, "1").extra == {"caption": "a cat", "url": 3}
    for parser in (cot_example, short_example):
        assert parser({**REASONING_ROW, "url": 3}, "1").extra == {"url": 3}


def test_a_description_that_is_the_whole_chain_gives_its_last_step():  # what the original writes without its anchor
    whole = {"id": 1, "image": "a.png", "dd_caption": render(COD, BODIES).replace("Organize all", "Put all")}
    assert dd_example(whole, "1").turns[1].text == BODIES[-1]
    assert dd_example({**whole, "dd_caption": "A cat.\n\nIt sits."}, "1").turns[1].text == "A cat.\n\nIt sits."
    cut = whole["dd_caption"].partition("Step 4:")[0]
    for broken in (cut, "Sure!\n" + whole["dd_caption"]):
        with pytest.raises(ChainError):
            dd_example({**whole, "dd_caption": broken}, "1")


def revised(folder, names, **config):
    rows = [{**CAPTION_ROW, "id": str(i), "image": name} for i, name in enumerate(names)]
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(b"x")
    (folder / "far.png").write_bytes(b"x")
    (folder / "images" / "far.png").symlink_to(folder / "far.png")
    paths = {"input": folder / "in.jsonl", "chain_dir": folder / "cod", "plain_dir": folder / "dd"}
    revise(ReviseConfig(task="captioning", image_folder=folder / "images", max_dropped_share=1.0, **paths, **config))
    return read_json(folder / "cod" / "manifest.json")


def test_finished_annotations_need_no_images(tmp_path):
    manifest = revised(tmp_path, ["a.png"])
    (tmp_path / "images").rename(tmp_path / "packed-away")
    paths = {"input": tmp_path / "in.jsonl", "chain_dir": tmp_path / "cod", "plain_dir": tmp_path / "dd"}
    config = ReviseConfig(task="captioning", image_folder=tmp_path / "images", max_dropped_share=1.0, **paths)
    revise(config)
    assert read_json(tmp_path / "cod" / "manifest.json") == manifest
    (tmp_path / "dd" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="image_folder .*images does not exist"):
        revise(config)


def test_an_image_problem_keeps_its_own_reason(tmp_path):
    manifest = revised(tmp_path, ["a.png", "../far.png", "none.png", "far.png"])
    assert manifest["dropped"] == {"image_missing": 1, "image_refused": 2}


def test_links_may_lead_to_the_named_roots(tmp_path):
    assert revised(tmp_path, ["a.png", "far.png"], image_roots=(tmp_path,))["rows_out"] == 2


def test_a_repeated_id_is_dropped(tmp_path):
    rows = [REASONING_ROW, {**REASONING_ROW, "id": "r2"}, REASONING_ROW]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = {"input": tmp_path / "in.jsonl", "chain_dir": tmp_path / "cot", "plain_dir": tmp_path / "short"}
    revise(ReviseConfig(task="reasoning", **paths))
    dropped = Dropped.model_validate_json((tmp_path / "cot" / "dropped.jsonl").read_text())
    assert (dropped.id, dropped.reason) == ("r1", "duplicate_id")


@pytest.mark.parametrize(
    ("script", "variables"),
    [
        ("revise_cod.sh", {"IMAGE_FOLDER": "my images"}),
        ("revise_cod.sh", {"IMAGE_DIR": "my images", "IMAGE_FOLDER": "others"}),
        ("revise_cot.sh", {"IMAGE_FOLDER": "my images"}),
        ("revise_cod.sh", {}),
        ("revise_cot.sh", {}),
    ],
)
def test_the_scripts_pass_the_image_folder(script, variables):
    files = dict.fromkeys(
        ["ORIGINAL_CAPTION_FILE", "OUTPUT_COD_DIR", "OUTPUT_DD_DIR", "ORIGINAL_COT_FILE"]
        + ["OUTPUT_COT_DIR", "OUTPUT_SHORT_DIR"],
        "x",
    )
    # `exec` is replaced by a function, so the command is shown and not run.
    command = f'exec() {{ printf "%s\\n" "$@"; }}; . "{ROOT}/training_data_annotation/{script}"'
    environment = {"PATH": os.environ["PATH"], **files, **variables}
    shown = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True).stdout
    assert f"image_folder={'my images' if variables else 'null'}" in shown.splitlines()

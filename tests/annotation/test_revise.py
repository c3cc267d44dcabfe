"""revise.py: one annotation, two examples, independent of each other."""

import json

import pytest

from sicog.annotation.revise import ReviseConfig, cod_example, cot_example, dd_example, revise, short_example
from sicog.chains import COD, COT, parse, render
from sicog.formats import RowError
from sicog.records import Example
from sicog.storage import read_json, read_records

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


def test_reasoning_long_and_short_do_not_touch_each_other():  # D-C1
    before = json.dumps(REASONING_ROW)
    cot, short = cot_example(REASONING_ROW, "r1"), short_example(REASONING_ROW, "r1")
    assert json.dumps(REASONING_ROW) == before
    assert parse(COT, cot.turns[1].text) == ("s", "c", "r\n\nr", "B")
    assert cot.turns[0].text == "Which? Answer the question step-by-step."
    assert short.turns[1].text == "B"
    assert short_example(REASONING_ROW, "r1", "row").turns[0].text == "Which?"
    assert cot.images == short.images == ("a.png",)  # D-C10: the marker was missing
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

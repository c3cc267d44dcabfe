"""The mini world's annotation: the real step with a local teacher gives what is true of the scenes."""

import json

import pytest

from sicog.config import validate
from sicog.mini.annotate import MiniAnnotateConfig, mini_annotate
from sicog.mini.text import cod_caption, detailed_description
from sicog.mini.write_world import MiniDataConfig, draw_split, write_mini_data
from sicog.records import Example
from sicog.stages.storage import read_json, read_records

COUNTS = {"align": 1, "sft": 1, "warmup_captions": 30, "warmup_reasoning": 1, "unlabelled": 1, "dev": 1, "test": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_mini_data(MiniDataConfig(**COUNTS), folder)
    return folder


def annotated(world, folder):
    values = {"task": "captioning", "input": world / "warmup_captions.json", "image_folder": world}
    values |= {"chain_dir": folder / "chain", "plain_dir": folder / "plain", "teacher_dir": folder / "teacher"}
    return mini_annotate(validate(MiniAnnotateConfig, values, "test"))


def test_the_teacher_writes_what_is_true_of_each_scene(world, tmp_path):
    chain, plain = (list(read_records(f, Example)) for f in annotated(world, tmp_path))
    scenes = draw_split(MiniDataConfig(**COUNTS), "warmup_captions")
    assert [e.turns[1].text for e in chain] == [cod_caption(s) for s in scenes]
    assert [e.turns[1].text for e in plain] == [detailed_description(s) for s in scenes]
    rows = json.loads((world / "warmup_captions.json").read_text())
    assert [e.extra for e in chain] == [{"caption": row["caption"]} for row in rows]
    manifest = read_json(tmp_path / "teacher" / "rows" / "manifest.json")
    assert manifest["rows_out"] == 30 and not manifest["failed"] and not manifest["dropped"]
    annotated(world, tmp_path)  # a finished one is left, though its server has another address now

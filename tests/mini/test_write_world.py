"""The data folder: formats as published, splits apart, no label of a held-out pair, equal bytes, resume, refusal."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from sicog.chains import COT, parse, render
from sicog.config import validate
from sicog.formats import ensure_marker, parse_example, read_llava, read_queries, tagged_sections
from sicog.mini.scene import HELD_OUT
from sicog.mini.truth import read_truth
from sicog.mini.write_world import TAGS, MiniDataConfig, draw_split, total_images, write_mini_data
from sicog.records import Dropped, Example, Query

SMALL = MiniDataConfig(
    seed=7, align=20, sft=24, warmup_captions=10, warmup_reasoning=15, unlabelled=12, dev=10, test=20
)
LABEL_FILES = ("align.json", "sft.json", "warmup_captions.json", "warmup_reasoning.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mini data")
    write_mini_data(SMALL, path)
    return path


def bytes_of(folder: Path):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read(path: Path):
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def test_equal_config_gives_equal_bytes_and_another_seed_others(folder, tmp_path):
    write_mini_data(SMALL, tmp_path / "b")
    assert bytes_of(folder) == bytes_of(tmp_path / "b")
    write_mini_data(SMALL.model_copy(update={"seed": 8}), tmp_path / "c")
    differing = {name for name, digest in bytes_of(tmp_path / "c").items() if bytes_of(folder)[name] != digest}
    assert {*LABEL_FILES, "test_questions.json", "images/test/00003.png"} <= differing


def test_every_file_and_image_is_there(folder):
    manifest = read(folder / "manifest.json")
    assert sum(s["images"] for s in manifest["splits"].values()) == total_images(SMALL) == 111
    assert len(list((folder / "images").rglob("*.png"))) == 111
    assert set(manifest["files"]) | {"config.json", "manifest.json"} == {
        n for n in bytes_of(folder) if not n.startswith("images/")
    }
    assert all(bytes_of(folder)[name] == digest for name, digest in manifest["files"].items())
    for split, counts in manifest["splits"].items():
        assert sum(n for answers in counts["answers"].values() for n in answers.values()) == counts["questions"], split


def test_splits_share_no_image(folder):
    digests = [d for n, d in bytes_of(folder).items() if n.startswith("images/")]
    assert len(set(digests)) == len(digests)
    ids = [row["id"] for name in LABEL_FILES for row in read(folder / name)]
    ids += [row["id"] for split in ("unlabelled", "dev", "test") for row in read(folder / f"{split}_images.json")]
    assert len(set(ids)) == len(ids)


def test_no_label_holds_a_held_out_pair(folder):
    for name in LABEL_FILES:
        text = (folder / name).read_text()
        for colour, shape in HELD_OUT:
            assert not re.search(rf"\b{colour} {shape}", text), (name, colour, shape)
    for split in ("align", "sft", "warmup_captions", "warmup_reasoning"):
        assert read(folder / "manifest.json")["splits"][split]["held_out_images"] == 0


def test_our_readers_take_every_row(folder):
    for name in ("align.json", "sft.json", "warmup_captions.json"):
        rows = list(read_llava(folder / name))
        assert rows and all(isinstance(r, Example) and len(r.images) == 1 for r in rows), name
        assert all(r.turns[0].text.strip() and r.turns[0].images_at for r in rows)
    for split in ("unlabelled", "dev", "test"):
        for file, task in ((f"{split}_images.json", "captioning"), (f"{split}_questions.json", "reasoning")):
            rows = list(read_queries(folder / file, task))
            assert rows and all(isinstance(r, Query) for r in rows)
            for row in rows:
                with Image.open(folder / row.images[0]) as image:
                    assert image.mode == "RGB"
    assert not any(isinstance(r, Dropped) for r in read_llava(folder / "sft.json"))


def test_sft_has_captions_single_questions_and_conversations(folder):
    rows = read(folder / "sft.json")
    turns = [len(r["conversations"]) for r in rows]
    assert {2, 4, 6} <= set(turns)
    assert sum("detailed caption" in r["conversations"][0]["value"] for r in rows) == 8
    for row in rows:
        assert [t["from"] for t in row["conversations"]] == ["human", "gpt"] * (len(row["conversations"]) // 2)
        assert row["conversations"][0]["value"].startswith("<image>\n")
        assert not any("<image>" in t["value"] for t in row["conversations"][1:])
        for turn in row["conversations"][::2]:
            assert turn["value"].endswith(("as descriptive as possible.", "using a single word or phrase."))


def test_warmup_captions_are_for_a_teacher_to_rewrite(folder):
    scenes = {s.id: s for s in draw_split(SMALL, "warmup_captions")}
    assert {t.scene.id: t.scene for t in read_truth(folder, "warmup_captions").values()} == scenes
    for row in read(folder / "warmup_captions.json"):
        assert "cod_caption" not in row and "dd_caption" not in row
        assert row["caption"] and row["conversations"][0]["value"].startswith("<image>\n")


def test_warmup_reasoning_has_the_four_tagged_sections(folder):
    for row in read(folder / "warmup_reasoning.jsonl"):
        assert "<image>" not in row["conversations"][0]["value"]  # as published: the reader adds it
        sections = tagged_sections(row["conversations"][1]["value"], TAGS)
        assert parse(COT, render(COT, sections)) == sections
        assert sections[2].endswith(f"so the answer is {sections[3]}.")
        assert parse_example(ensure_marker(row), row["id"]).images == (row["image"],)


def test_truth_joins_the_queries_by_id(folder):
    for split, per_image in (("unlabelled", 2), ("dev", 4), ("test", 5)):
        truth = read_truth(folder, split)
        assert [r["id"] for r in read(folder / f"{split}_images.json")] == list(truth)
        asked = {q.id: q for t in truth.values() for q in t.questions}
        rows = read(folder / f"{split}_questions.json")
        assert [r["id"] for r in rows] == list(asked) and len(rows) == per_image * len(truth)
        assert all(r["conversations"][0]["value"] == "<image>\n" + asked[r["id"]].question for r in rows)
        assert all(len(r["conversations"]) == 1 for r in rows)
        for t in truth.values():
            assert t.held_out == t.scene.held_out
            with Image.open(folder / t.image) as image:
                assert image.size == (t.scene.width, t.scene.height)
    types = [[q.type for q in t.questions] for t in read_truth(folder, "test").values()]
    assert all(sorted(ts) == ["attribute", "compare", "count", "exist", "relation"] for ts in types)


def test_labels_are_true(folder):
    """The captions of the labelled splits must agree with the scenes drawn anew."""
    scenes = {s.id: s for split in ("align", "warmup_captions") for s in draw_split(SMALL, split)}
    placed = 0
    for row in read(folder / "align.json") + read(folder / "warmup_captions.json"):
        scene, said = scenes[row["id"]], row["conversations"][1]["value"]
        named = re.findall(r"an? (\w+) (\w+)(?: at the (\w+ \w+))?", said)
        true = {(t.colour, t.shape, at) for t in scene.things for at in ("", scene.region(t))}
        assert named and set(named) <= true and len(named) <= 2, (said, scene)
        placed += any(at for *_, at in named)
    assert placed == len(read(folder / "align.json")) // 2


def test_a_finished_folder_is_left_and_an_unfinished_one_completed(folder, tmp_path):
    small = SMALL.model_copy(update={"align": 3, "sft": 3})
    manifest = write_mini_data(small, tmp_path)
    before = bytes_of(tmp_path)
    seen = []
    assert write_mini_data(small, tmp_path, lambda: seen.append(1)) == manifest and not seen
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "images" / "test" / "00001.png").write_bytes(b"cut")
    write_mini_data(small, tmp_path, lambda: seen.append(1))
    assert len(seen) == total_images(small) and bytes_of(tmp_path) == before


def test_another_config_is_refused(folder):
    with pytest.raises(ValueError, match=r"another config \(test: 20 there, 21 here\). Choose another folder"):
        write_mini_data(SMALL.model_copy(update={"test": 21}), folder)


def test_missing_truth_is_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"truth/dev.jsonl does not exist. Run `sicog mini-data"):
        read_truth(tmp_path, "dev")


def test_config_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="test_questions"):
        validate(MiniDataConfig, {"test_questions": 6}, "mini.yaml")
    with pytest.raises(ValueError, match="did you mean 'unlabelled'"):
        validate(MiniDataConfig, {"unlabeled": 6}, "mini.yaml")

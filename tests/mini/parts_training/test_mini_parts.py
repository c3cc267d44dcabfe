"""The mini parts: the tokenizer, what they are trained on, the shipped file, and a tiny training run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from modes import unreadable
from safetensors import safe_open

from sicog.mini.cells import coverage
from sicog.mini.parts_training.measure_language import measure_language
from sicog.mini.parts_training.mini_parts import FIGURES, LANGUAGE, SHIPPED, VISION, WEIGHTS, mini_parts
from sicog.mini.parts_training.parts_config import LanguagePartConfig, MiniPartsConfig, VisionPartConfig
from sicog.mini.parts_training.parts_text import CURRICULUM, Conversations, feature_cells
from sicog.mini.parts_training.probe_tower import probe_tower
from sicog.mini.parts_training.train_language import TextBatches, plan_grid, text_processor
from sicog.mini.parts_training.train_vision import IGNORED, SceneBatches, view_labels
from sicog.mini.questions import QUESTION_TYPES
from sicog.mini.render import render_scene
from sicog.mini.scene import COLOURS, LABELLED, SHAPES, Scene, Thing, draw_scene
from sicog.mini.text import cod_caption
from sicog.mini.tokenizer import SPECIAL_TOKENS, train_tokenizer
from sicog.mini.truth import QuestionTruth, chance_accuracy
from sicog.mini.write_world import LABELLED_SPLITS, MiniDataConfig, draw_split
from sicog.model.checkpoints import load_parts
from sicog.model.layout import count_features
from sicog.records import Turn
from sicog.stages.storage import read_json
from sicog.tasks import SHORT_ANSWER, STEP_BY_STEP

TINY_VISION = VisionPartConfig(width=32, layers=2, mlp_width=32, steps=3, images_per_step=3, measured=10)
TINY_LANGUAGE = LanguagePartConfig(width=32, layers=1, mlp_width=32, vocabulary=400, steps=3, measured=2)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(0, 760)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    return mini_parts(MiniPartsConfig(out_dir=tmp_path_factory.mktemp("parts") / "shipped"))


@pytest.fixture(scope="module")
def model_and_processor(shipped):
    return load_parts(shipped / VISION, shipped / LANGUAGE, query_grid=4, scale=112)


def test_tokenizer_round_trip_and_special_ids_in_order(tokenizer):
    scene = draw_scene(3, "x", 1, LABELLED)
    for text in (cod_caption(scene), "Ünïcode 漢字 🎉 12\n\n  x", "<|im_end|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(tokenizer) - 4, len(tokenizer)))
    assert tokenizer.eos_token == SPECIAL_TOKENS[0]


def test_words_of_the_world_are_one_token_each(tokenizer):
    words = [f" {w}" for w in (*COLOURS, *SHAPES, "small", "large", "left", "background", "triangles")]
    words += ["yes", "no", "four", "circle", "cyan", "large", "\n", ","]
    assert [w for w in words if len(tokenizer.encode(w)) != 1] == []


def test_no_labelled_image_shows_a_held_out_pair_and_the_language_model_knows_all_words(tokenizer):
    batches = SceneBatches(TINY_VISION, 0)
    assert not any(scene.held_out for step in range(100) for scene in batches.scenes(step))
    assert not any(scene.held_out for split in LABELLED_SPLITS for scene in draw_split(MiniDataConfig(), split)[:100])
    conversations = Conversations(0, "parts-text", 4, plan_grid(text_processor(tokenizer, 768, 4)))
    told = " ".join(answer for index in range(300) for _, answer in conversations(index).tasks)
    assert all(f"{colour} {shape}" in told for colour in COLOURS for shape in SHAPES)


def test_kinds_of_questions_enter_one_after_another(tokenizer):
    conversations = Conversations(0, "parts-text", 4, plan_grid(text_processor(tokenizer, 768, 4)))
    words = {"attribute": "What|Where", "count": "How many", "exist": "Is there", "relation": "further|In which|higher"}
    words["compare"] = "larger|smaller|more of"
    assert tuple(words) == CURRICULUM
    for progress, kinds in ((0.0, 1), (0.031, 2), (0.061, 3), (0.091, 4), (0.121, 5), (1.0, 5)):
        asked = [p for index in range(150) for p, _ in conversations(index, progress).tasks]
        prompts = [p for p in asked if p.endswith((SHORT_ANSWER, STEP_BY_STEP))]
        assert {k for k, w in words.items() if any(re.search(w, p) for p in prompts)} == set(CURRICULUM[:kinds])


def _scene(width: int = 112, height: int = 112) -> Scene:
    box = (0, 0, width // 2, height // 2)
    return Scene("s-0", width, height, "white", (Thing("large", "red", "circle", box),))


def test_coverage_is_the_share_of_each_cell_in_the_box():
    assert coverage(_scene(), 4, 2)[..., 0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert coverage(_scene(), 1, 1)[0, 0, 0] == pytest.approx(0.25)


def test_labels_of_slices_and_thumbnail():
    slice_labels, *_, thumbnail = view_labels(_scene(224, 112), ((8, 8), (8, 8), (5, 11)), (2, 1))
    assert set(slice_labels["colour"]) == {COLOURS.index("red"), len(COLOURS)}
    assert set(slice_labels["size"]) == {IGNORED, 2}  # a slice does not show how large the image is
    assert set(thumbnail["size"]) == {1, 2, IGNORED}  # a patch half on the border is not asked of
    assert [len(v) for v in (slice_labels["shape"], thumbnail["shape"])] == [64, 55]


def test_cells_follow_the_layout_of_the_image(tokenizer):
    scene = _scene(224, 112)
    cells = feature_cells(scene, (2, 1), 4)
    assert len(cells) == count_features((2, 1), 4) == 48
    assert [w for w, _ in cells[0]] == ["red", "circle"]  # stitched slices first: no size and no place there
    assert [w for w, _ in cells[32]] == ["large", "red", "circle", "top", "left"]
    assert [w for w, _ in cells[-1]] == ["white"]


def test_text_batches_are_supervised_on_answers_only(tokenizer):
    processor = text_processor(tokenizer, 768, 4)
    batch = next(iter(TextBatches(LanguagePartConfig(tokens_per_step=600), processor, 0)))
    assert batch.input_ids.shape == batch.labels.shape and batch.input_ids.numel() <= 600
    assert len(batch.words) == int(batch.input_ids.eq(processor.image_token_id).sum())
    keep = batch.labels != -100
    assert torch.equal(batch.labels[keep], batch.input_ids[keep]) and 0 < keep.float().mean() < 0.8


def test_shipped_file_is_small_and_half_precision():
    assert sum((SHIPPED / name).stat().st_size for name in (WEIGHTS, "tokenizer.json")) < 6e6
    with safe_open(SHIPPED / WEIGHTS, framework="pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118


def test_shipped_parts_make_a_model_that_runs(model_and_processor):
    model, processor = model_and_processor
    scene = draw_scene(5, "x", 0, LABELLED)
    turns = [Turn(role="user", text="What is in the image?", images_at=(0,)), Turn(role="assistant", text="A star.")]
    batch = processor.collate([processor.encode(turns, [render_scene(scene)])])
    assert torch.isfinite(model(**batch).loss)
    total = sum(p.numel() for p in model.parameters())
    assert 2e6 < total < 4e6


def test_shipped_tower_passes_its_gates(model_and_processor):
    """A small probe; what `make mini-parts` measured on 1,000 fresh scenes, with a larger one, is in figures.json."""
    found = probe_tower(model_and_processor[0].vision_tower, 112, 21, fitted=600, tested=200)
    gates = {"colour": 0.97, "shape": 0.95, "size": 0.95, "region": 0.95, "held_out": 0.85}
    assert {name: found[name] for name in gates if found[name] < gates[name]} == {}
    shipped = read_json(SHIPPED / FIGURES)[VISION]
    assert min(shipped["colour"], shipped["shape"], shipped["size"]) >= 0.97 and shipped["region"] >= 0.95


def test_shipped_language_model_reads_cells_and_reasons(model_and_processor):
    """Few items, so with room for chance; the gates are held against figures.json, of 1,000 items each."""
    model, processor = model_and_processor
    found = measure_language(model.language_model, processor.tokenizer, LanguagePartConfig(), 21, items=50)
    answers = found["answers"]
    assert found["captions"]["dd"]["f1"] > 0.93 and found["captions"]["dd"]["place"] > 0.93
    assert answers["direct"]["all"] > 0.8 and answers["cot"]["all"] > 0.9 and answers["chance"]["all"] < 0.6
    shipped = read_json(SHIPPED / FIGURES)[LANGUAGE]
    assert shipped["items"] >= 1000
    for caption in shipped["captions"].values():
        assert caption["f1"] >= 0.95 and caption["place"] >= 0.95
    bare, chains = shipped["answers"]["direct"], shipped["answers"]["cot"]
    assert bare["all"] >= 0.85 and set(chains) == {"all", *QUESTION_TYPES}
    assert chains["all"] >= max(0.92, bare["all"] + 0.05) and min(chains.values()) >= 0.75


def test_chance_knows_the_form_of_the_question_alone():
    found = chance_accuracy(
        [("exist", "exist", "yes"), ("exist", "exist", "no"), ("exist", "exist", "no")]
        + [("attribute", "size", "large")] * 3
        + [("attribute", "color", "red"), ("attribute", "color", "blue")]
    )
    assert found == {"all": pytest.approx(6 / 8), "attribute": pytest.approx(4 / 5), "exist": pytest.approx(2 / 3)}
    truths = (("Which is larger, the red cross or the star?", a) for a in ("red cross", "star"))
    assert [QuestionTruth("i", "compare", "larger", q, a, False).choice for q, a in truths] == ["first", "second"]
    assert QuestionTruth("i", "count", "all", "How many things are there?", "two", False).choice == "two"


def test_finished_parts_are_left_alone_and_known_by_their_content(shipped):
    manifest = read_json(shipped / "manifest.json")
    assert {f"{VISION}/model.safetensors", f"{LANGUAGE}/tokenizer.json"} <= set(manifest["files"])
    assert unreadable(shipped) == []
    before = (shipped / "manifest.json").stat().st_mtime_ns
    mini_parts(MiniPartsConfig(out_dir=shipped))
    assert (shipped / "manifest.json").stat().st_mtime_ns == before


def test_a_tiny_training_run_gives_folders_that_load(tmp_path, monkeypatch):
    monkeypatch.setattr("sicog.mini.parts_training.mini_parts.SHIPPED", tmp_path / "ship")
    out = mini_parts(
        MiniPartsConfig(
            out_dir=tmp_path / "out", source="train", ship=True, workers=0, vision=TINY_VISION, language=TINY_LANGUAGE
        )
    )
    model, _ = load_parts(out / VISION, out / LANGUAGE, query_grid=4, scale=112)
    assert model.config.vision_config.hidden_size == 32
    again = mini_parts(MiniPartsConfig(out_dir=tmp_path / "again"))
    unpacked, _ = load_parts(again / VISION, again / LANGUAGE, query_grid=4, scale=112)
    for a, b in zip(model.vision_tower.parameters(), unpacked.vision_tower.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)


def test_without_a_shipped_file_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("sicog.mini.parts_training.mini_parts.SHIPPED", tmp_path)
    with pytest.raises(ValueError, match="source=train"):
        mini_parts(MiniPartsConfig(out_dir=tmp_path / "out"))

"""The mini parts: the tokenizer, what they are trained on, the shipped file, and a tiny training run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sicog.mini.cells import coverage
from sicog.mini.measure_language import measure_language
from sicog.mini.parts import LANGUAGE, SHIPPED, VISION, WEIGHTS, mini_parts
from sicog.mini.parts_config import LanguagePartConfig, MiniPartsConfig, VisionPartConfig
from sicog.mini.parts_text import Conversations, feature_cells
from sicog.mini.render import render_scene
from sicog.mini.scene import COLOURS, HELD_OUT, LABELLED, SHAPES, Scene, Thing, draw_scene
from sicog.mini.text import cod_caption
from sicog.mini.tokenizer import SPECIAL_TOKENS, train_tokenizer
from sicog.mini.train_language import TextBatches, plan_grid, text_processor
from sicog.mini.train_vision import IGNORED, SceneBatches, view_labels
from sicog.model.checkpoints import load_parts
from sicog.model.layout import count_features
from sicog.records import Turn
from sicog.storage import read_json

TINY_VISION = VisionPartConfig(width=32, layers=2, mlp_width=32, steps=3, images_per_step=3)
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


def test_no_training_scene_or_word_of_the_parts_is_held_out(tokenizer):
    processor = text_processor(tokenizer, 768, 4)
    conversations = Conversations(0, "parts-text", 4, plan_grid(processor))
    for index in range(300):
        told = conversations(index)
        text = told.telling.text + " ".join(p + " " + a for p, a in told.tasks)
        assert not conversations.scene(index).held_out
        assert not any(f"{colour} {shape}" in text for colour, shape in HELD_OUT)
    batches = SceneBatches(TINY_VISION, 0)
    assert not any(scene.held_out for step in range(100) for scene in batches.scenes(step))


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
    assert [w for w, _ in cells[0]] == ["red", "circle"]  # stitched slices first: no size there
    assert [w for w, _ in cells[32]] == ["large", "red", "circle"]
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


def test_shipped_tower_shows_colours_and_shapes_to_a_linear_reader(model_and_processor):
    """Closed-form ridge regression from patch features to labels, on fresh images."""
    tower = model_and_processor[0].vision_tower
    fitted, tested = (_features(tower, 11, range(4)), _features(tower, 12, range(2)))
    assert _ridge_accuracy(fitted, tested, "colour", len(COLOURS)) > 0.85
    assert _ridge_accuracy(fitted, tested, "shape", len(SHAPES)) > 0.7


@torch.no_grad()
def _features(tower, seed: int, steps: range):
    batches = [SceneBatches(VisionPartConfig(images_per_step=48), seed).batch(step) for step in steps]
    features = torch.cat([tower(b.pixels, b.view_sizes) for b in batches])
    labels = {name: torch.cat([b.labels[name] for b in batches]) for name in ("colour", "shape")}
    return torch.cat([features, torch.ones(len(features), 1)], 1).double(), labels


def _ridge_accuracy(fitted, tested, name: str, values: int) -> float:
    """Accuracy on the patches of things, where `values` is the label of nothing."""
    x, y = fitted[0], fitted[1][name]
    x, y = x[y != IGNORED], y[y != IGNORED]
    targets = torch.nn.functional.one_hot(y, values + 1).double()
    weights = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]).double(), x.T @ targets)
    x, y = tested[0], tested[1][name]
    keep = (y != IGNORED) & (y != values)
    return float(((x @ weights).argmax(1) == y)[keep].double().mean())


def test_shipped_language_model_answers_from_text(model_and_processor):
    model, processor = model_and_processor
    found = measure_language(
        model.language_model, processor.tokenizer, LanguagePartConfig(), 21, items=40, styles=("direct", "brief")
    )
    # What ships measured 0.72 and 0.81 on 300 items; answers by chance are right in about a third.
    assert found["direct"] > 0.6 and found["brief"] > 0.7


def test_finished_parts_are_left_alone_and_known_by_their_content(shipped):
    manifest = read_json(shipped / "manifest.json")
    assert {f"{VISION}/model.safetensors", f"{LANGUAGE}/tokenizer.json"} <= set(manifest["files"])
    before = (shipped / "manifest.json").stat().st_mtime_ns
    mini_parts(MiniPartsConfig(out_dir=shipped))
    assert (shipped / "manifest.json").stat().st_mtime_ns == before


def test_a_tiny_training_run_gives_folders_that_load(tmp_path, monkeypatch):
    monkeypatch.setattr("sicog.mini.parts.SHIPPED", tmp_path / "ship")
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
    monkeypatch.setattr("sicog.mini.parts.SHIPPED", tmp_path)
    with pytest.raises(ValueError, match="source=train"):
        mini_parts(MiniPartsConfig(out_dir=tmp_path / "out"))

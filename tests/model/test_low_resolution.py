"""The low-resolution variant: one padded square view, an MLP on each patch, placeholders without separators."""

import numpy as np
import pytest
import torch
from golden_recipe import draw_image
from PIL import Image
from safetensors.torch import save_file
from tiny import SCALE, tiny_parts
from torch import nn

from sicog.model import SicogConfig, SicogImageProcessor, load_checkpoint, load_parts
from sicog.model.image_processing import CLIP_MEAN
from sicog.model.mlp_projector import MlpProjector
from sicog.model.square import padded_square
from sicog.records import Turn

SIDE = SCALE // 14
MLP = {"scale": SCALE, "projector_type": "mlp"}
QUESTION = [Turn(role="user", text="What is this?", images_at=(0,)), Turn(role="assistant", text="It is two.")]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def built(parts):
    return load_parts(*parts, **MLP)


@pytest.mark.parametrize("size", [(56, 56), (80, 40), (40, 80), (10, 7), (3, 1000), (1000, 3)])
def test_the_picture_is_centred_on_the_mean(size):
    square = np.asarray(padded_square(Image.new("RGB", size, (250, 0, 0)), SCALE, CLIP_MEAN))
    inside = (square == (250, 0, 0)).all(-1)
    rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
    want = [max(round(SCALE * side / max(size)), 1) for side in size]
    assert [len(columns), len(rows)] == want
    for found in (rows, columns):
        assert abs(found[0] - (SCALE - 1 - found[-1])) <= 1  # equal margins
    assert (square[~inside] == [round(255 * m) for m in CLIP_MEAN]).all()


def test_every_image_is_one_view_of_the_scale():
    processor = SicogImageProcessor(image_mode="square")
    for size in ((336, 336), (2000, 300), (1, 20000)):
        for slicing in (True, False):
            assert processor.plan(*size, slicing=slicing).thumbnail_size == (336, 336)
    prepared = processor.prepare(draw_image(2000, 300, 1))
    assert (prepared.view_sizes, prepared.grid, len(prepared.pixels)) == (((24, 24),), (0, 0), 576)
    assert np.abs(prepared.pixels[0]).max() < 0.01  # the corner is background: the mean, so zero


def test_full_size_has_576_placeholders_in_a_row():
    config = SicogConfig(vision_config={"image_size": 336, "patch_size": 14}, text_config={}, projector_type="mlp")
    assert (config.image_mode, config.query_grid**2) == ("square", 576)


def test_features_are_the_patches_in_row_major_order(built):
    model, processor = built
    image = draw_image(90, 40, 3)
    encoded = processor.encode(QUESTION, [image])
    at = [i for i, token in enumerate(encoded.input_ids) if token == model.image_token_id]
    assert at == list(range(at[0], at[0] + SIDE**2))
    batch = processor.collate([encoded])
    pixels = [batch[name] for name in ("pixel_values", "view_sizes", "image_grids")]
    with torch.no_grad():
        features_PC = model.vision_tower(*pixels[:2])
        plain = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32))
        plain.load_state_dict(model.resampler.state_dict())
        torch.testing.assert_close(model.encode_images(*pixels), plain(features_PC))


def test_batches_equal_single_rows(built):
    model, processor = built
    rows = [processor.encode(QUESTION, [draw_image(*size, 2)]) for size in ((90, 40), (20, 60))]
    text = processor.encode([Turn(role="user", text="Hi"), Turn(role="assistant", text="It is.")])
    together = processor.collate([rows[0], text, rows[1]], with_labels=False)
    with torch.no_grad():
        logits = model(**together).logits
        for i, row in ((0, rows[0]), (1, text), (2, rows[1])):
            alone = model(**processor.collate([row], with_labels=False)).logits
            torch.testing.assert_close(logits[i, : len(row.input_ids)], alone[0], atol=1e-5, rtol=1e-4)


def test_every_part_trains_with_and_without_an_image(parts):
    model, processor = load_parts(*parts, **MLP)
    model.train()
    for turns, images in ((QUESTION, [draw_image(90, 40, 2)]), ([Turn(role="assistant", text="It is.")], [])):
        model.zero_grad()
        model(**processor.collate([processor.encode(turns, images)])).loss.backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        assert bool(model.resampler[0].weight.grad.any()) == bool(images)


def test_checkpoint_projector_and_generation(built, parts, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, again = load_checkpoint(tmp_path)
    assert isinstance(loaded.resampler, MlpProjector) and again.image_processor.image_mode == "square"
    inputs = again(draw_image(90, 40, 1), "What is this?")
    greedy = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(loaded.generate(**inputs, **greedy), model.generate(**inputs, **greedy))
    state = model.resampler.state_dict()
    (tmp_path / "align").mkdir()
    save_file({f"resampler.{n}": v + 1 for n, v in state.items()}, tmp_path / "align" / "projector.safetensors")
    other, _ = load_parts(*parts, projector=tmp_path / "align", **MLP)
    assert all(torch.equal(other.resampler.state_dict()[n], v + 1) for n, v in state.items())
    with pytest.raises(ValueError, match="not those of this model's projector"):
        load_parts(*parts, projector=tmp_path / "align", scale=SCALE, query_grid=2)


def test_a_resampler_may_see_squares_too(parts):
    model, processor = load_parts(*parts, scale=SCALE, query_grid=2, image_mode="square")
    encoded = processor.encode(QUESTION, [draw_image(90, 40, 2)])
    assert encoded.input_ids.count(model.image_token_id) == 4
    assert torch.isfinite(model(**processor.collate([encoded])).loss)


def test_images_of_another_kind_are_refused(built):
    model, _ = built
    sizes = torch.tensor([[4, 4], [2, 2]])
    with pytest.raises(ValueError, match="views of one size"):
        model.encode_images(torch.zeros(20, 588), sizes, torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="gives 4 features, not 16"):
        model.encode_images(torch.zeros(8, 588), sizes[[1, 1]], torch.zeros(2, 2, dtype=torch.long))


def test_mistakes_are_named(parts):
    for options, message in (
        ({"image_mode": "slices"}, "needs image_mode square"),
        ({"query_grid": 5}, "Remove query_grid"),
        ({"scale": 50}, "not a whole number of patches"),
    ):
        with pytest.raises(ValueError, match=message):
            load_parts(*parts, **{**MLP, **options})
    with pytest.raises(ValueError, match="image_mode is 'slices' or 'square'"):
        SicogImageProcessor(image_mode="round")

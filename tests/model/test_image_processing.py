"""Files of every kind become the right pixels or a clear error."""

import io
import warnings

import numpy as np
import pytest
import torch
from golden_recipe import draw_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sicog.model import SicogImageProcessor, image_size, load_image
from sicog.model.image_processing import to_rgb
from sicog.model.pixels import normalise_pixels
from sicog.model.slicing import plan_slices

PROCESSOR = SicogImageProcessor()
ON_DEVICE = SicogImageProcessor(normalize_on="device")
RED = (200, 30, 40)


def saved(image, suffix="png", **kwargs):
    file = io.BytesIO()
    image.save(file, suffix, **kwargs)
    file.seek(0)
    return file


def plain_views(image, plan):
    """Normalised pixels the way the original prepares them: one resize and one crop per view, channels first."""
    views = []
    if plan.grid:
        canvas, (w, h) = image.resize(plan.resized_size, Image.Resampling.BICUBIC), plan.slice_size
        for row in range(plan.grid[1]):
            for column in range(plan.grid[0]):
                views.append(canvas.crop((column * w, row * h, (column + 1) * w, (row + 1) * h)))
    views.append(image.resize(plan.thumbnail_size, Image.Resampling.BICUBIC))
    mean, std = np.array(PROCESSOR.image_mean), np.array(PROCESSOR.image_std)
    return [((np.asarray(v) / 255 - mean) / std).transpose(2, 0, 1) for v in views]


def unpatch(rows, size):
    (h, w), p = size, PROCESSOR.patch_size
    return rows.reshape(h, w, 3, p, p).transpose(2, 0, 3, 1, 4).reshape(3, h * p, w * p)


@pytest.mark.parametrize("size", [(336, 336), (1000, 400), (400, 1200), (1024, 768), (50, 40)])
@pytest.mark.parametrize("slicing", [True, False])
def test_pixels_equal_the_plain_way(size, slicing):
    image = draw_image(*size, 3)
    plan = plan_slices(*size) if slicing else plan_slices(*size).without_slices()
    prepared = PROCESSOR.prepare(image, slicing=slicing)
    expected = plain_views(image, plan)
    assert prepared.grid == (plan.grid or (0, 0))
    assert prepared.pixels.dtype == np.float32
    assert len(prepared.view_sizes) == len(expected)
    parts = np.split(prepared.pixels, np.cumsum([h * w for h, w in prepared.view_sizes])[:-1])
    for part, view, want in zip(parts, prepared.view_sizes, expected, strict=True):
        np.testing.assert_allclose(unpatch(part, view), want, atol=5e-7)


@pytest.mark.parametrize("size", [(336, 336), (1000, 400), (50, 40)])
def test_uint8_patches_are_the_resized_pixels_and_normalise_to_the_same_numbers(size):
    image = draw_image(*size, 3)
    for slicing in (True, False):
        raw, ready = (processor.prepare(image, slicing=slicing) for processor in (ON_DEVICE, PROCESSOR))
        assert raw.pixels.dtype == np.uint8
        assert (raw.view_sizes, raw.grid) == (ready.view_sizes, ready.grid)
        normalised = normalise_pixels(torch.from_numpy(raw.pixels), PROCESSOR.image_mean, PROCESSOR.image_std)
        np.testing.assert_array_equal(normalised, ready.pixels)
        thumbnail = image.resize(plan_slices(*size).thumbnail_size, Image.Resampling.BICUBIC)
        (h, w) = raw.view_sizes[-1]
        np.testing.assert_array_equal(unpatch(raw.pixels[-h * w :], (h, w)), np.asarray(thumbnail).transpose(2, 0, 1))


def test_normalised_pixels_are_those_of_clip_for_every_level():
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    clip = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    expected = np.asarray(clip(Image.fromarray(levels), return_tensors="np")["pixel_values"])[0, :, 0]
    patches = torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 3)
    ours = normalise_pixels(patches, PROCESSOR.image_mean, PROCESSOR.image_std)
    np.testing.assert_allclose(ours.T, expected, atol=5e-7, rtol=0)


class Photographs(torch.utils.data.Dataset):
    """Images that are made and prepared in the worker."""

    def __init__(self, processor):
        self.processor = processor

    def __len__(self):
        return 4

    def __getitem__(self, i):
        prepared = self.processor.prepare(draw_image(200 + 100 * i, 300, i))
        return torch.from_numpy(prepared.pixels), prepared.view_sizes


@pytest.mark.parametrize("normalize_on", ["host", "device"])
def test_workers_of_a_loader_prepare_the_same(normalize_on):
    rows = Photographs(SicogImageProcessor(normalize_on=normalize_on))
    loader = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=2)
    for (pixels, sizes), (expected, expected_sizes) in zip(loader, map(rows.__getitem__, range(4)), strict=True):
        assert torch.equal(pixels, expected) and tuple(map(tuple, sizes)) == expected_sizes


def test_an_upright_image_is_not_copied_but_a_loaded_one_is_its_own(tmp_path):
    image = draw_image(40, 30, 1)
    assert to_rgb(image) is image
    image.save(tmp_path / "a.png")
    assert type(load_image(tmp_path / "a.png")) is Image.Image


def test_unknown_place_of_normalisation():
    with pytest.raises(ValueError, match="'host' or 'device', got 'gpu'"):
        SicogImageProcessor(normalize_on="gpu")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900))
def test_any_ordinary_size(width, height):
    try:
        plan = PROCESSOR.plan(width, height)
    except ValueError as error:
        assert "max_patches" in str(error)
        return
    prepared = PROCESSOR.prepare(Image.new("RGB", (width, height)))
    assert len(prepared.view_sizes) == plan.n_slices + 1
    assert prepared.pixels.shape == (sum(h * w for h, w in prepared.view_sizes), 588)
    assert max(h * w for h, w in prepared.view_sizes) <= PROCESSOR.max_patches


def test_one_pixel():
    assert PROCESSOR.prepare(Image.new("RGB", (1, 1))).view_sizes == ((24, 24),)


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1)])
def test_too_elongated_is_refused_before_any_pixel_is_made(size):
    with pytest.raises(ValueError, match="max_patches is 2304"):
        PROCESSOR.prepare(Image.new("RGB", size))
    assert SicogImageProcessor(max_patches=10**6).plan(*size).n_slices == 0


def centre(image):
    return image.getpixel((image.width // 2, image.height // 2))


def rgba(alpha):
    return Image.new("RGBA", (8, 6), (*RED, alpha))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (8, 6), RED), RED),
        (Image.new("RGB", (8, 6), RED).quantize(4), RED),
        (rgba(255), RED),
        (rgba(0), (255, 255, 255)),
        (Image.new("LA", (8, 6), (0, 0)), (255, 255, 255)),
        (Image.new("L", (8, 6), 77), (77, 77, 77)),
        (Image.new("1", (8, 6), 1), (255, 255, 255)),
        (Image.fromarray(np.full((6, 8), 0x8080, dtype=np.uint16)), (128, 128, 128)),
    ],
)
def test_modes(image, expected):
    loaded = load_image(saved(image))
    assert loaded.mode == "RGB"
    assert centre(loaded) == expected


def test_cmyk_jpeg():
    loaded = load_image(saved(Image.new("RGB", (16, 16), RED).convert("CMYK"), "jpeg", quality=95))
    assert loaded.mode == "RGB"
    assert np.abs(np.array(centre(loaded)) - RED).max() < 8


def test_transparent_palette_is_shown_on_white():
    image = Image.new("P", (8, 6), 0)
    image.putpalette([0, 0, 0, *RED])
    assert centre(load_image(saved(image, "gif", transparency=0))) == (255, 255, 255)


def test_float_and_32_bit_greys():
    for array, expected in ((np.full((4, 4), 0.5, np.float32), 128), (np.full((4, 4), 200, np.int32), 200)):
        assert centre(load_image(saved(Image.fromarray(array), "tiff"))) == (expected,) * 3


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 6), c) for c in (RED, (0, 255, 0))]
    loaded = load_image(saved(frames[0], "gif", save_all=True, append_images=frames[1:]))
    assert np.abs(np.array(centre(loaded)) - RED).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation):
    image = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(image, "jpeg", exif=exif)
    expected = (20, 40) if orientation >= 5 else (40, 20)
    assert image_size(file) == expected
    file.seek(0)
    assert load_image(file).size == expected
    file.seek(0)
    raw = Image.open(file)  # as a user may hand it over
    assert (
        PROCESSOR.prepare(raw, slicing=False).view_sizes[0]
        == PROCESSOR.prepare(load_image(file), slicing=False).view_sizes[0]
    )


def test_missing_empty_and_not_an_image(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a decodable image")
    for name, message in (
        ("none.jpg", "no such image"),
        ("empty.jpg", "is empty"),
        ("text.jpg", "not a decodable image"),
    ):
        for load in (load_image, image_size):
            with pytest.raises(ValueError, match=message) as caught:
                load(tmp_path / name)
            assert name in str(caught.value)
    with pytest.raises(ValueError, match="no such image"):
        load_image(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpeg", "gif", "webp", "tiff", "bmp"])
def test_truncated_anywhere(suffix):
    whole = saved(draw_image(64, 48, 5), suffix).getvalue()
    for share in (0.1, 0.5, 0.9):
        with warnings.catch_warnings(), pytest.raises(ValueError, match="damaged|not a decodable image"):
            warnings.simplefilter("ignore")
            load_image(io.BytesIO(whole[: int(len(whole) * share)]))


def test_a_bomb_is_refused_from_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (30000, 30000)).save(path)
    for load in (load_image, image_size):
        with pytest.raises(ValueError, match="pixels"):
            load(path)
    with pytest.raises(ValueError, match="more than 100"):
        load_image(saved(Image.new("RGB", (20, 20))), max_pixels=100)


def test_damaged_exif_keeps_the_picture():
    file = saved(Image.new("RGB", (40, 20), RED), "jpeg", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_image(file).size == (40, 20)


def test_long_side_is_applied_first():
    processor = SicogImageProcessor(long_side=1024)
    assert processor.plan(100, 75) == plan_slices(1024, 768)
    assert processor.plan(75, 100) == plan_slices(768, 1024)
    assert processor.prepare(draw_image(100, 75, 1)).grid == (3, 2)


def test_settings_survive_saving(tmp_path):
    processor = SicogImageProcessor(scale=112, max_slices=4, max_patches=100, long_side=500, image_mean=[0.5, 0.4, 0.3])
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    for loaded in (SicogImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, SicogImageProcessor)
        assert loaded.to_dict() == processor.to_dict()
    assert SicogImageProcessor.from_pretrained(tmp_path).long_side == 500
    ON_DEVICE.save_pretrained(tmp_path)
    assert SicogImageProcessor.from_pretrained(tmp_path).normalize_on == "device"


def test_preprocess_stacks_images():
    batch = PROCESSOR([Image.new("RGB", (40, 40)), Image.new("RGB", (1000, 400))], return_tensors="pt")
    assert batch["image_grids"].tolist() == [[0, 0], [3, 1]]
    assert batch["pixel_values"].shape[0] == int(batch["view_sizes"].prod(1).sum())
    assert len(PROCESSOR(Image.new("RGB", (40, 40)))["view_sizes"]) == 1

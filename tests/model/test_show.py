"""`sicog show-image` and docs/model.md: the picture is drawn, and the numbers are those of the code."""

import re
from pathlib import Path

import pytest
from golden_recipe import draw_image
from PIL import Image
from typer.testing import CliRunner

from sicog.cli import app
from sicog.model import SicogConfig, SicogImageProcessor
from sicog.model.layout import count_tokens
from sicog.model.original.config import MLP
from sicog.model.processing import TURN_FORMATS
from sicog.model.show import describe, draw, show_image
from sicog.model.slicing import plan_slices

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "model.md").read_text()


def show(*arguments):
    return CliRunner().invoke(app, ["show-image", *map(str, arguments)])


def test_the_command_draws_and_says_the_numbers(tmp_path):
    draw_image(640, 480, 1).save(tmp_path / "photo.png")
    done = show(tmp_path / "photo.png", "--out", tmp_path / "new" / "shown.png")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "photo.png: 640 x 480 pixels",
        "grid: 2 columns x 2 rows, 4 slices of 378 x 280 pixels, 27 x 20 patches each",
        "thumbnail: 378 x 280 pixels, 27 x 20 patches",
        "tokens: 24 rows of 24 features and a separator = 600, one separator, the thumbnail's 12 x 12 = 144: 745",
    ]
    with Image.open(tmp_path / "new" / "shown.png") as picture:
        assert picture.format == "PNG" and picture.width > 500 and len(picture.getcolors()) > 20


@pytest.mark.parametrize("size", [(30, 20), (336, 336), (2000, 300), (300, 2000), (1024, 768)])
def test_any_grid_can_be_drawn(tmp_path, size):
    draw_image(*size, 1).save(tmp_path / "a.png")
    lines = show_image(tmp_path / "a.png", tmp_path / "b.png")
    assert lines[-1].endswith(str(count_tokens(plan_slices(*size).grid, 12)))
    assert (tmp_path / "b.png").stat().st_size > 0


def test_settings_and_a_checkpoint_s(tmp_path, tiny_dir):
    draw_image(100, 60, 1).save(tmp_path / "a.png")
    own = show(tmp_path / "a.png", "--out", tmp_path / "b.png", "--scale", 56, "--max-slices", 4, "--query-grid", 2)
    theirs = show(tmp_path / "a.png", "--out", tmp_path / "c.png", "--checkpoint", tiny_dir)
    assert own.exit_code == 0 and own.output == theirs.output
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_a_square_is_drawn_padded_not_stretched():
    red = Image.new("RGB", (200, 50), "red")
    processor = SicogImageProcessor(image_mode="square", scale=56)
    page = draw(red, ["x"], processor, 4)
    n_red = sum(n for n, colour in page.getcolors(1 << 16) if colour == (255, 0, 0))
    assert n_red == 56 * 14


def test_mistakes_are_named(tmp_path, tiny_dir):
    draw_image(50, 60, 1).save(tmp_path / "a.png")
    for arguments, says in (
        ((tmp_path / "none.png",), "no such image"),
        ((tmp_path / "a.png", "--checkpoint", tmp_path), "is incomplete: processor_config.json"),
        ((tmp_path / "a.png", "--checkpoint", tiny_dir, "--scale", 56), "scale come with the checkpoint"),
        ((tmp_path / "a.png", "--checkpoint", tiny_dir, "--query-grid", 2), "query_grid come with the checkpoint"),
    ):
        done = show(*arguments, "--out", tmp_path / "b.png")
        assert isinstance(done.exception, ValueError) and says in str(done.exception)
    assert not (tmp_path / "b.png").exists()


def test_the_page_s_table_of_tokens_is_what_the_code_counts():
    rows = re.findall(r"^\| (\d+) x (\d+) \| (\S.*?) \| (\S.*?) \| (\d+) x (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 5
    for width, height, grid, slices, *rest in rows:
        plan = plan_slices(int(width), int(height))
        assert grid == ("none" if plan.grid is None else f"{plan.grid[0]} x {plan.grid[1]}")
        assert slices == ("-" if plan.slice_size is None else f"{plan.slice_size[0]} x {plan.slice_size[1]}")
        assert [int(x) for x in rest] == [*plan.thumbnail_size, count_tokens(plan.grid, 12)]


def test_the_page_s_picture_is_of_what_it_says():
    lines = re.search(r"```\n(coffee\.png: .*?)```", PAGE, re.DOTALL).group(1).splitlines()
    width, height = map(int, re.match(r"coffee\.png: (\d+) x (\d+) pixels", lines[0]).groups())
    assert lines[1:] == describe((width, height), SicogImageProcessor(long_side=1024), 12)
    picture = DOCS / re.search(r"!\[.*?\]\((\S+\.png)\)", PAGE).group(1)
    assert picture.stat().st_size < 150_000


def test_the_page_s_low_resolution_variant_is_the_code_s():
    text = PAGE.split("## The low-resolution variant", 1)[1].split("\n## ", 1)[0]
    side, patches = (int(re.search(rf"(\d+) x \1 {what}", text).group(1)) for what in ("pixels", "patches"))
    config = SicogConfig(vision_config={"patch_size": 14}, projector_type="mlp")
    image = SicogImageProcessor(image_mode=config.image_mode)
    assert (side, patches) == (config.scale, config.query_grid)
    assert int(re.search(r"(\d+) tokens", text).group(1)) == count_tokens(image.plan(2000, 300).grid, config.query_grid)
    for setting in (f"image_mode: {config.image_mode}", f"`{MLP}`", "image_aspect_ratio: pad"):
        assert setting in text


def test_the_page_s_turn_formats_are_the_code_s():
    table = PAGE.split("## How turns are written", 1)[1].split("\n## ", 1)[0]
    rows = {}
    for line in re.findall(r"^\| (?!---|turn_format)(.*) \|$", table, re.MULTILINE):
        name, *cells = [cell.strip("`").replace("\\|", "|").replace("\\n", "\n") for cell in line.split(" | ")]
        rows[name] = ["" if cell == "none" else cell for cell in cells]
    assert rows == {
        name: [f.start, f.prefix, f.end_token, f.suffix, f.default_system or ""] for name, f in TURN_FORMATS.items()
    }


def test_the_page_names_what_exists():
    root = DOCS.parent
    for path in re.findall(r"`(sicog/[\w/.]+|benchmarks/[\w/.]*|tests/[\w/.]+)`", PAGE):
        assert (root / path).exists(), path


def test_only_a_png_is_written(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    for name in ("b.jpg", "b.xyz", "b"):
        with pytest.raises(ValueError, match=r"must end in \.png"):
            show_image(tmp_path / "a.png", tmp_path / name)

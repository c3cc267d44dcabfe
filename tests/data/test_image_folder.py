"""Images lie in a folder, in a tar, or in the tars of a folder; the same names are refused everywhere."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from sicog.data.image_folder import ImageFolder, open_image_source
from sicog.data.images import ImageProblem
from sicog.data.rows.tar_files import TarIndex
from tests.data.rows.test_table import BLUE, RED, picture, write_tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "loose.png").write_bytes(picture("blue"))
    files = {
        "./a/1.png": picture("red"),
        "loose.png": picture("red"),
        "a/cut.png": picture("red")[:-34],
        "empty.png": b"",
    }
    links = {"link.png": "a/1.png", "out.png": "/etc/passwd"}
    write_tar(tmp_path / "images" / "one.tar", {**files, "../up.png": picture("red"), "/root.png": b"x"}, links)
    write_tar(tmp_path / "images" / "two.tar", {"a/2.png": picture("blue"), "a/1.png": picture("blue")})
    return tmp_path / "images"


def colour(images: ImageFolder, name: str) -> tuple[int, ...]:
    source = open_image_source(images.find(name))
    with Image.open(source) as image:
        return image.convert("RGB").getpixel((0, 0))


def test_names_mean_files_first_then_members_the_last_of_equal_ones(folder: Path, cache: Path) -> None:
    images = ImageFolder(folder, cache=cache)
    assert colour(images, "loose.png") == BLUE
    assert colour(images, "a/1.png") == colour(images, "./a/1.png") == BLUE and colour(images, "a/2.png") == BLUE
    one = ImageFolder(folder / "one.tar", cache=cache)
    assert colour(one, "loose.png") == colour(one, "a/1.png") == RED
    copy = pickle.loads(pickle.dumps(one))
    assert colour(copy, "a/1.png") == RED and copy.measure(copy.find("a/1.png")) == (20, 10)


@pytest.mark.parametrize("inside", ["", "one.tar"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../up.png", "image_refused"),
        ("/root.png", "image_refused"),
        ("file:///etc/passwd", "image_refused"),
        ("https://example.org/a.png", "image_refused"),
        ("a\0.png", "image_refused"),
        ("", "image_refused"),
        ("link.png", "image_missing"),
        ("out.png", "image_missing"),
        ("none.png", "image_missing"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(folder: Path, cache: Path, inside: str, name: str, reason: str) -> None:
    """Links within a tar are no files."""
    with pytest.raises(ImageProblem) as caught:
        ImageFolder(folder / inside, cache=cache).find(name)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["a/cut.png", "empty.png"])
def test_damaged_members_are_broken_images(folder: Path, cache: Path, name: str) -> None:
    images = ImageFolder(folder, cache=cache)
    with pytest.raises(ImageProblem, match=name) as caught:
        images.measure(images.find(name))
    assert caught.value.reason == "image_broken"


def test_a_bomb_in_a_tar_is_not_decoded(tmp_path: Path, cache: Path) -> None:
    stream = io.BytesIO()
    Image.new("1", (20000, 20000)).save(stream, "png")
    write_tar(tmp_path / "x.tar", {"bomb.png": stream.getvalue()})
    images = ImageFolder(tmp_path / "x.tar", cache=cache)
    with pytest.raises(ImageProblem, match="pixels"):
        images.measure(images.find("bomb.png"))


def test_a_tar_in_capitals_is_read(folder: Path, cache: Path) -> None:
    (folder / "two.tar").rename(folder / "two.TAR")
    assert colour(ImageFolder(folder, cache=cache), "a/2.png") == BLUE


def test_an_index_is_made_once_for_the_same_tars(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert colour(ImageFolder(folder, cache=cache), "a/1.png") == BLUE
    monkeypatch.setattr(TarIndex, "_build", lambda *_: pytest.fail("indexed again"))
    ImageFolder(folder, cache=cache)
    assert colour(ImageFolder(folder, cache=cache), "a/1.png") == BLUE
    monkeypatch.undo()
    write_tar(folder / "two.tar", {"a/3.png": picture("red")})
    changed = ImageFolder(folder, cache=cache)
    assert colour(changed, "a/3.png") == RED and colour(changed, "a/1.png") == RED


def test_a_tar_that_was_cut_after_it_was_indexed(folder: Path, cache: Path) -> None:
    images = ImageFolder(folder / "two.tar", cache=cache)
    assert colour(images, "a/2.png") == BLUE
    (folder / "two.tar").write_bytes((folder / "two.tar").read_bytes()[:530])
    with pytest.raises(ImageProblem, match="ends inside it"):
        images.measure(images.find("a/2.png"))


def test_an_empty_tar_holds_nothing(tmp_path: Path, cache: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    with pytest.raises(ImageProblem, match="has no file"):
        ImageFolder(tmp_path / "x.tar", cache=cache).find("a.png")


def test_a_tar_that_nothing_asks_for_is_not_read(folder: Path, cache: Path) -> None:
    (folder / "broken.tar").write_bytes(b"no tar at all" * 100)
    images = ImageFolder(folder, cache=cache)
    assert colour(images, "loose.png") == BLUE
    with pytest.raises(ValueError, match=r"broken\.tar is no readable"):
        images.find("a/1.png")

"""Images are found under the image folder, or refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sicog.data.image_folder import ImageFolder
from sicog.data.images import ImageProblem, resolve_image
from sicog.model.image_files import image_size, load_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "images"
    (inside / "sub").mkdir(parents=True)
    (inside / "sub" / "a b.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    return inside


def test_a_name_under_the_folder_is_found(folder: Path) -> None:
    assert resolve_image(folder, "sub/a b.png") == folder / "sub" / "a b.png"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "sub/../../secret.png",
        "sub/../sub/a b.png",
        "..\\secret.png",
        "/etc/passwd",
        "C:\\secret.png",
        "file:///etc/passwd",
        "file:secret.png",
        "https://example.org/a.png",
        "data:image/png;base64,AAAA",
        "a\0.png",
        "",
        "x" * 5000,
    ],
)
def test_names_that_could_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ImageProblem) as caught:
        resolve_image(folder, name)
    assert caught.value.reason == "image_refused"


def test_a_missing_file_and_a_folder_are_missing(folder: Path) -> None:
    for name in ("none.png", "sub"):
        with pytest.raises(ImageProblem) as caught:
            resolve_image(folder, name)
        assert caught.value.reason == "image_missing"


def test_a_plain_file_takes_one_look_at_the_disk_for_each_part_of_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network disk each look is a message. Resolving takes one for each folder above, for file and root."""
    deep = folder / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "d.png").touch()
    images, looks = ImageFolder(folder, cache=folder), list[object]()
    for name in ("lstat", "stat", "readlink"):
        real = getattr(os, name)

        def counted(path: object, *rest: object, real: Any = real, **more: object) -> Any:
            looks.append(path)
            return real(path, *rest, **more)

        monkeypatch.setattr(os, name, counted)
    found, n_looks = images.find("a/b/c/d.png"), len(looks)
    assert n_looks == 4 and found == (deep / "d.png").resolve()


def test_links_are_followed_into_named_roots_only(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "near.png").symlink_to(folder / "sub" / "a b.png")
    assert resolve_image(folder, "near.png").name == "a b.png"
    with pytest.raises(ImageProblem, match="image_roots"):
        resolve_image(folder, "link.png")
    assert resolve_image(folder, "link.png", [tmp_path]) == tmp_path / "secret.png"


def test_an_image_folder_that_is_itself_a_link_works(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    assert resolve_image(tmp_path / "alias", "sub/a b.png").is_file()


def test_a_loop_of_links_and_a_name_that_no_file_can_have_are_refused(folder: Path) -> None:
    (folder / "loop.png").symlink_to(folder / "loop.png")
    for name in ("loop.png", "loop.png/a.png", "\ud800.png"):
        with pytest.raises(ImageProblem) as caught:
            resolve_image(folder, name)
        assert caught.value.reason == "image_refused"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "webp"])
def test_the_size_in_the_header_is_that_of_the_picture(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 10), "red").save(tmp_path / f"a.{suffix}", exif=exif)
    assert image_size(tmp_path / f"a.{suffix}") == load_image(tmp_path / f"a.{suffix}").size

"""Pictures of the sample: upright as the model saw them, and one that cannot be shown does not cost the page."""

import base64
import io
import shutil

import pytest
from PIL import Image
from report.fake_run import fake_run, page_data

from sicog.data.image_folder import ImageFolder
from sicog.model.image_processing import load_image
from sicog.report.row_images import data_url, link_to
from sicog.report.write import ReportConfig, report
from sicog.stages.storage import read_json


def shown(folder, name):
    """The picture that the page would hold."""
    return Image.open(
        io.BytesIO(base64.b64decode(data_url(ImageFolder(folder, cache=folder), name)[0].partition(",")[2]))
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("run"), images=12, items=10)


@pytest.mark.parametrize("trouble", ["missing", "damaged", "no image", "a link out"])
def test_a_picture_that_cannot_be_shown_costs_only_itself(finished, tmp_path, trouble):
    data = shutil.copytree(finished["image_folder"], tmp_path / "data")
    pictures = sorted((data / "images" / "unlabelled").iterdir())
    for path in pictures[:4]:
        whole = path.read_bytes()
        path.unlink()
        if trouble == "a link out":
            (tmp_path / "outside.png").write_bytes(whole)
            path.symlink_to(tmp_path / "outside.png")
        elif trouble != "missing":
            path.write_bytes(whole[: len(whole) // 2] if trouble == "damaged" else b"<html>not found</html>")
    values = {**finished, "run_dir": finished["out_dir"].parent, "image_folder": data}
    out = report(ReportConfig(**{**values, "out_dir": tmp_path / "report"}))
    examples, page = read_json(out / "results.json")["examples"], (out / "report.html").read_text()
    found = page_data(page)["pictures"]
    lost = [name for name, picture in found.items() if "missing" in picture]
    assert len(examples) == len(found) == 12 and len(lost) == 4
    assert all(picture["src"].startswith("data:image/png") for name, picture in found.items() if name not in lost)
    why = {"missing": "the file is missing", "a link out": "leads to no file within the image folder"}
    assert all(why.get(trouble, "the file is damaged or is no image") in found[name]["missing"] for name in lost)
    assert str(tmp_path) not in page


def test_all_other_pictures_are_links_relative_to_the_page(tmp_path):
    (tmp_path / "a b" / "images#1").mkdir(parents=True)
    assert link_to(tmp_path / "runs" / "report", tmp_path / "a b" / "images#1") == "../../a%20b/images%231/"
    (tmp_path / "images.tar").touch()
    assert link_to(tmp_path / "report", tmp_path / "images.tar") is None  # a page cannot look into it


def test_pictures_are_turned_as_the_model_saw_them(tmp_path):
    image, exif = Image.new("RGB", (60, 20), "blue"), Image.Exif()
    image.paste("red", (0, 0, 20, 20))
    exif[0x0112] = 6  # stored lying on its side
    image.save(tmp_path / "a.png", exif=exif)
    assert shown(tmp_path, "a.png").size == (20, 60)
    assert shown(tmp_path, "a.png").tobytes() == load_image(tmp_path / "a.png").tobytes()


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (9, 9, 9, 0)), ("LA", (9, 0)), ("I;16", 40000), ("L", 77)])
def test_other_modes_look_as_the_model_saw_them(tmp_path, mode, colour):
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.png")
    ours, theirs = (x.getpixel((3, 3)) for x in (shown(tmp_path, "a.png"), load_image(tmp_path / "a.png")))
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1

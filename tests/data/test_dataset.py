"""Rows are measured before training; what cannot be used is dropped with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sicog.data.collator import PaddedCollator
from sicog.data.dataset import ExampleDataset, ImageFolder, measure_rows
from sicog.model import load_checkpoint
from sicog.model.processing import SicogProcessor
from sicog.records import Example, Turn


@pytest.fixture(scope="module")
def processor(tiny_dir: Path) -> SicogProcessor:
    return load_checkpoint(tiny_dir)[1]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    turned = Image.new("RGB", (200, 40), "blue")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    Image.new("RGB", (1, 400000)).save(tmp_path / "thin.png")
    return tmp_path


def row(name: str, image: str | None = "a.png", answer: str = "two") -> Example:
    turns = (Turn(role="user", text="How many?", images_at=(0,) if image else ()), Turn(role="assistant", text=answer))
    return Example(id=name, images=(image,) if image else (), turns=turns)


def test_drops_with_reasons(processor: SicogProcessor, images: Path) -> None:
    examples = [
        row("good"),
        row("text", None),
        row("missing", "none.png"),
        row("outside", "../a.png"),
        row("empty", "empty.png"),
        row("cut", "cut.png"),
        row("thin", "thin.png"),
        row("long", answer="yes " * 500),
        row("turned", "turned.jpg"),
    ]
    rows, dropped = measure_rows(examples, processor, ImageFolder(images), max_length=300, slicing=True)
    assert [r.example.id for r in rows] == ["good", "text", "turned"]
    assert {d.id: d.reason for d in dropped} == {
        "missing": "image_missing",
        "outside": "image_refused",
        "empty": "image_broken",
        "cut": "image_broken",
        "thin": "unusable",
        "long": "too_long",
    }
    assert "tokens > 300" in next(d.detail for d in dropped if d.id == "long")


def test_measured_lengths_are_those_of_the_encoded_rows(processor: SicogProcessor, images: Path) -> None:
    examples = [row("a"), row("text", None), row("turned", "turned.jpg")]
    for slicing in (True, False):
        rows, _ = measure_rows(examples, processor, ImageFolder(images), max_length=4096, slicing=slicing)
        dataset = ExampleDataset(rows, processor, slicing=slicing)
        for i, measured in enumerate(rows):
            row_id, encoded = dataset[i]
            assert row_id == measured.example.id and len(encoded.input_ids) == measured.n_tokens
            assert sum(label != -100 for label in encoded.labels) == measured.n_supervised


def test_the_limit_is_exact_and_nothing_is_cut(processor: SicogProcessor, images: Path) -> None:
    (measured,), _ = measure_rows([row("a")], processor, ImageFolder(images), max_length=4096, slicing=True)
    n = measured.n_tokens
    assert len(measure_rows([row("a")], processor, ImageFolder(images), max_length=n, slicing=True)[0]) == 1
    assert len(measure_rows([row("a")], processor, ImageFolder(images), max_length=n - 1, slicing=True)[0]) == 0


def test_header_check_finds_the_cut_image_when_it_is_read(processor: SicogProcessor, images: Path) -> None:
    folder = ImageFolder(images, check="header")
    rows, _ = measure_rows([row("damaged", "cut.png")], processor, folder, max_length=4096, slicing=True)
    with pytest.raises(ValueError, match="row damaged"):
        ExampleDataset(rows, processor, slicing=True)[0]


def test_images_without_a_folder_are_dropped(processor: SicogProcessor) -> None:
    _, dropped = measure_rows([row("a")], processor, ImageFolder(None), max_length=4096, slicing=True)
    assert "image_folder" in dropped[0].detail


def test_the_collator_keeps_ids(processor: SicogProcessor, images: Path) -> None:
    rows, _ = measure_rows([row("a"), row("b", None)], processor, ImageFolder(images), max_length=4096, slicing=True)
    dataset = ExampleDataset(rows, processor, slicing=True)
    batch = PaddedCollator(processor)([dataset[0], dataset[1]])
    assert batch["ids"] == ["a", "b"] and batch["input_ids"].shape[0] == 2
    assert int(batch["attention_mask"][1].sum()) == rows[1].n_tokens

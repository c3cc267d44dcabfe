"""Rows are measured before training; what cannot be used is dropped with its reason, as a plain loop would do it."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import select
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sicog.data import measure as measuring
from sicog.data.collator import PaddedCollator
from sicog.data.config import NoiseConfig
from sicog.data.dataset import ExampleDataset
from sicog.data.image_folder import ImageFolder
from sicog.data.images import ImageProblem, resolve_image
from sicog.data.measure import TokenMeasure
from sicog.data.mixture import Source, read_mixture
from sicog.data.mixture_rows import measure_mixture
from sicog.data.noise import RowNoise
from sicog.formats import read_llava
from sicog.model import load_checkpoint
from sicog.model.image_processing import load_image
from sicog.model.processing import SicogProcessor
from sicog.records import Dropped, Example, Turn
from sicog.stages.storage import write_dataset


@pytest.fixture(scope="module")
def processor(tiny_dir: Path) -> SicogProcessor:
    return load_checkpoint(tiny_dir)[1]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (60, 40), "red").save(folder / "a.png")
    turned = Image.new("RGB", (200, 40), "blue")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:-30])
    Image.new("RGB", (1, 400000)).save(folder / "thin.png")
    return folder


def row(name: str, *images: str, answer: str = "two") -> Example:
    turns = (Turn(role="user", text="How many?", images_at=(0,) * len(images)), Turn(role="assistant", text=answer))
    return Example(id=name, images=images, turns=turns)


class Loader:
    """Examples, as a dataset of ours, to a dataset and its drops."""

    def __init__(self, processor: SicogProcessor, folder: Path, cache: Path) -> None:
        self.processor, self.folder, self.cache = processor, folder, cache
        self.n = 0

    def __call__(
        self,
        examples: Sequence[Example],
        images: Path | None,
        max_length: int = 4096,
        slicing: bool = True,
        check: str = "decode",
    ) -> tuple[ExampleDataset, list[Dropped]]:
        self.n += 1
        write_dataset(self.folder / str(self.n), examples)
        return self.load([Source(path=self.folder / str(self.n))], images, max_length, slicing, check)

    def load(
        self,
        sources: Sequence[Source],
        images: Path | None,
        max_length: int = 4096,
        slicing: bool = True,
        check: str = "decode",
    ) -> tuple[ExampleDataset, list[Dropped]]:
        mixture = read_mixture(sources, 0, self.cache)
        folder = ImageFolder(images, check=check, cache=self.cache)
        measure = TokenMeasure(self.processor, slicing)
        usable = measure_mixture(mixture, measure, folder, max_length=max_length, cache=self.cache)
        dataset = ExampleDataset(
            mixture.tables,
            usable.selection,
            usable.lengths,
            self.processor,
            folder,
            slicing=slicing,
            cache=self.cache,
        )
        return dataset, list(usable.dropped_rows())


@pytest.fixture
def load(processor: SicogProcessor, tmp_path: Path, cache: Path) -> Loader:
    return Loader(processor, tmp_path / "rows", cache)


def all_ids(dataset: ExampleDataset) -> list[str]:
    return dataset.ids(range(len(dataset)))


def test_drops_with_reasons(load: Loader, images: Path) -> None:
    examples = [
        row("good", "a.png"),
        row("text"),
        row("missing", "none.png"),
        row("outside", "../a.png"),
        row("empty", "empty.png"),
        row("cut", "cut.png"),
        row("thin", "thin.png"),
        row("long", "a.png", answer="yes " * 500),
        row("turned", "turned.jpg"),
        row("two", "a.png", "turned.jpg"),
        row("second", "a.png", "none.png"),
    ]
    dataset, dropped = load(examples, images, max_length=300)
    assert all_ids(dataset) == ["good", "text", "turned", "two"]
    assert {d.id: d.reason for d in dropped} == {
        "missing": "image_missing",
        "outside": "image_refused",
        "empty": "image_broken",
        "cut": "image_broken",
        "thin": "unusable",
        "long": "too_long",
        "second": "image_missing",
    }
    assert "tokens > 300" in next(d.detail for d in dropped if d.id == "long")


def test_measured_lengths_are_those_of_the_encoded_rows(load: Loader, images: Path) -> None:
    examples = [row("a", "a.png"), row("text"), row("turned", "turned.jpg"), row("two", "turned.jpg", "a.png")]
    for slicing in (True, False):
        dataset, _ = load(examples, images, slicing=slicing)
        for i in range(len(dataset)):
            row_id, encoded = dataset[i]
            lengths = dataset.lengths
            assert row_id == examples[i].id and len(encoded.input_ids) == lengths.tokens[i]
            assert sum(label != -100 for label in encoded.labels) == lengths.supervised[i]
            assert len(encoded.view_sizes) == lengths.views[i]
            assert int(encoded.view_sizes.prod(axis=1).sum()) == lengths.patches[i]


def test_the_limit_is_exact_and_nothing_is_cut(load: Loader, images: Path) -> None:
    n = int(load([row("a", "a.png")], images)[0].lengths.tokens[0])
    assert len(load([row("a", "a.png")], images, max_length=n)[0]) == 1
    assert len(load([row("a", "a.png")], images, max_length=n - 1)[0]) == 0


def test_header_check_finds_the_cut_image_when_it_is_read(load: Loader, images: Path) -> None:
    dataset, _ = load([row("damaged", "cut.png")], images, check="header")
    with pytest.raises(ValueError, match="row damaged could be read before training, but not now"):
        dataset[0]


def test_images_without_a_folder_are_dropped(load: Loader) -> None:
    assert "image_folder" in load([row("a", "a.png")], None)[1][0].detail


def test_the_collator_keeps_ids(load: Loader, processor: SicogProcessor, images: Path) -> None:
    dataset, _ = load([row("a", "a.png"), row("b")], images)
    batch = PaddedCollator(processor)([dataset[0], dataset[1]])
    assert batch["ids"] == ["a", "b"] and batch["input_ids"].shape[0] == 2
    assert int(batch["attention_mask"][1].sum()) == dataset.lengths.tokens[1]


def plainly(
    path: Path, ours: Path, examples: Sequence[Example], images: Path, processor: SicogProcessor
) -> tuple[list[tuple[str, list[int]]], list[Dropped]]:
    """All rows in memory and one after the other: first the user's file, then ours."""
    read = list(read_llava(path))
    dropped = [r for r in read if isinstance(r, Dropped)]
    kept = []
    for example in [*(r for r in read if isinstance(r, Example)), *examples]:
        reason, detail, sizes = "", "", []
        try:
            sizes = [load_image(resolve_image(images, name)).size for name in example.images]
            ids, labels = processor.encode_text(example.turns, sizes)
            if len(ids) > 200:
                reason, detail = "too_long", f"{len(ids)} tokens > 200"
        except ImageProblem as problem:
            reason, detail = problem.reason, str(problem)
        except ValueError as error:
            reason, detail = ("unusable" if len(sizes) == len(example.images) else "image_broken"), str(error)
        if reason:
            dropped.append(Dropped(id=example.id, step="train", reason=reason, detail=detail))
        else:
            kept.append((example.id, ids))
    return kept, dropped


@pytest.mark.parametrize("processes", [1, 2])
def test_rows_drops_and_order_are_those_of_a_plain_loop(
    load: Loader,
    images: Path,
    tmp_path: Path,
    processor: SicogProcessor,
    processes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "_CHUNK", 7)
    monkeypatch.setattr(measuring, "_PARALLEL_FROM", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(processes), raising=False)
    rng = np.random.default_rng(0)
    names = ["a.png", "turned.jpg", "none.png", "cut.png", "thin.png", "../a.png", "empty.png"]
    lines, examples = [], []
    for i in range(60):
        chosen = [names[k] for k in rng.choice(7, rng.integers(0, 3), p=[0.4, 0.3, 0.06, 0.06, 0.06, 0.06, 0.06])]
        answer = "red circle " * int(rng.integers(1, 60))
        examples.append(row(f"ours{i}", *chosen, answer=answer))
        human = {"from": "human", "value": "<image>" * len(chosen) + "How many?"}
        turns = [human, {"from": "gpt", "value": answer}]
        lines.append(json.dumps({"id": i, "image": chosen, "conversations": turns[: 1 + (i % 9 > 0)]}).encode())
    lines[5] = lines[5][:-9]
    lines[6] = lines[6].replace(b"How", b"H\xff")
    path = tmp_path / "users.jsonl"
    path.write_bytes(b"\n".join(lines))
    write_dataset(tmp_path / "ours", examples)
    dataset, dropped = load.load([Source(path=path), Source(path=tmp_path / "ours")], images, max_length=200)
    expected, expected_drops = plainly(path, tmp_path / "ours", examples, images, processor)
    assert all_ids(dataset) == [row_id for row_id, _ in expected]
    assert [(dataset[i][0], dataset[i][1].input_ids) for i in range(len(dataset))] == expected
    assert dropped == expected_drops
    assert {d.reason for d in dropped} >= {"malformed_row", "image_missing", "image_broken", "unusable", "too_long"}


def test_what_was_measured_is_not_measured_again(load: Loader, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [row("a", "a.png"), row("b"), row("gone", "none.png")]
    first, first_drops = load(examples, images)
    monkeypatch.setattr(measuring, "_measure_all", lambda *_: pytest.fail("measured again"))
    again, drops = load(examples, images)
    assert all_ids(again) == all_ids(first) and drops == first_drops
    assert np.array_equal(again.lengths.as_array(), first.lengths.as_array())
    monkeypatch.undo()
    assert len(load(examples, images, max_length=20)[0]) < 2  # another question has another answer


def test_an_image_that_was_repaired_is_found_and_one_that_changed_is_named(load: Loader, images: Path) -> None:
    """A drop for its image is looked at again; the images of rows that were kept are not, until they are read."""
    examples = [row("late", "late.png"), row("cut", "cut.png"), row("whole", "a.png")]
    dataset, dropped = load(examples, images)
    assert all_ids(dataset) == ["whole"] and len(dropped) == 2
    for name in ("late.png", "cut.png"):
        Image.new("RGB", (50, 50)).save(images / name)
    dataset, dropped = load(examples, images)
    assert all_ids(dataset) == ["late", "cut", "whole"] and not dropped
    Image.new("RGB", (600, 40)).save(images / "a.png")
    with pytest.raises(ValueError, match="row whole had .* image has been changed"):
        load(examples, images)[0][2]
    (images / "late.png").unlink()
    with pytest.raises(ValueError, match="row late could be read before training, but not now"):
        dataset[0]
    assert all_ids(load(examples, images)[0]) == ["cut", "whole"]


def test_a_repeated_row_is_measured_once_and_dropped_as_often(load: Loader, images: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "w", [row("a", "a.png"), row("gone", "none.png"), row("b")])
    sources = [Source(path=tmp_path / "w", weight=2), Source(path=tmp_path / "w", take="end:1")]
    dataset, dropped = load.load(sources, images)
    assert all_ids(dataset) == ["a", "b", "a", "b", "b"] and [d.id for d in dropped] == ["gone", "gone"]
    assert dataset.lengths.tokens.tolist() == [len(dataset[i][1].input_ids) for i in range(5)]


def test_a_copy_for_a_worker_maps_the_same_files(load: Loader, images: Path) -> None:
    dataset, _ = load([row(f"r{i}", "a.png", answer="red " * 200) for i in range(500)], images)
    whole = dataset[499][1].input_ids
    data = pickle.dumps((dataset.tables, dataset.selection, dataset.lengths, dataset.images))
    assert len(data) < 500 * 60  # of rows with 800 characters
    with multiprocessing.get_context("fork").Pool(1) as pool:  # the dataset itself goes to it as to a spawned one
        assert pool.apply(_last, (dataset,)) == ("r499", whole)


def _last(dataset: ExampleDataset) -> tuple[str, list[int]]:
    row_id, encoded = dataset[len(dataset) - 1]
    return row_id, encoded.input_ids


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_measuring_process_ends_when_its_parent_was_killed() -> None:
    """Nothing else would tell it: it waits for work on a queue that it keeps open itself."""
    reader, writer = os.pipe()
    if (parent := os.fork()) == 0:
        if os.fork() == 0:
            above = os.getppid()
            os.write(writer, b"x")
            measuring._end_with(above)
        signal.pause()
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    ready, _, _ = select.select([reader], [], [], 20)
    assert ready and os.read(reader, 1) == b""  # nobody holds the other end any more
    os.close(reader)


def test_noise_shows_a_row_otherwise_and_exchanges_its_sides(load: Loader, images: Path) -> None:
    halves = Image.new("RGB", (40, 30), (250, 250, 250))
    halves.paste((10, 10, 200), (0, 0, 20, 30))
    halves.save(images / "halves.png")
    examples = [row("left", "halves.png", answer="left, not right"), row("text", answer="left, not right")]
    plain, _ = load(examples, images)
    noisy, _ = load(examples, images)
    noisy.noise = RowNoise(NoiseConfig(mirror=1.0), 0)
    (_, seen), (_, shown) = plain[0], noisy[0]
    assert not np.array_equal(seen.pixel_values, shown.pixel_values)
    decode = load.processor.tokenizer.decode
    assert decode(shown.input_ids) == decode(seen.input_ids).replace("left, not right", "right, not left")
    assert np.array_equal(plain[1][1].input_ids, noisy[1][1].input_ids)

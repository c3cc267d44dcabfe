"""Every kind of source becomes the same table, once; what cannot be read is named and dropped."""

from __future__ import annotations

import io
import json
import os
import tarfile
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sicog.data.image_folder import ImageFolder, load_images
from sicog.data.rows import table as tables
from sicog.data.rows.table import digest_source_file, open_table
from sicog.formats import parse_example, read_llava
from sicog.records import Dropped, Example
from sicog.stages.storage import write_dataset


def row(number: int, *images: str, **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>" * len(images) + f"What is {number}?"}, {"from": "gpt", "value": "ja"}]
    return {"id": number, "conversations": turns, **({"image": list(images)} if images else {}), **more}


def picture(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(stream, "png")
    return stream.getvalue()


def write_tar(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)


def examples(path: Path, cache: Path) -> list[Example]:
    table = open_table(path, cache)
    return [table.row(i)[0] for i in range(len(table))]


def colours(path: Path, cache: Path, folder: ImageFolder) -> list[list[tuple[int, ...]]]:
    table = open_table(path, cache)
    loaded = [load_images(table, table.row(i), folder) for i in range(len(table))]
    return [[image.getpixel((0, 0)) for image in images] for images in loaded]


RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_all_kinds_of_files_give_the_same_rows(tmp_path: Path, cache: Path) -> None:
    rows = [row(i, *["a.png", "b/c.png"][: i % 3], note={"k": [i, None]}) for i in range(30)]
    expected = [parse_example(r, str(r["id"])) for r in rows]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.json").write_text(json.dumps(rows[:11]))
    (tmp_path / "shards" / "b.jsonl").write_text("\n".join(map(json.dumps, rows[11:])))
    (tmp_path / "shards" / "README.md").write_text("about them")
    write_dataset(tmp_path / "ours", expected, rows_per_shard=7)
    for name in ("x.json", "x.jsonl", "shards", "ours"):
        assert examples(tmp_path / name, cache) == expected
    pq.write_table(
        pa.Table.from_pylist([{"image": None, **r, "note": str(r["note"])} for r in rows]), tmp_path / "x.parquet"
    )
    without = [e.model_copy(update={"extra": {"note": str(e.extra["note"])}}) for e in expected]
    assert examples(tmp_path / "x.parquet", cache) == without


def test_rows_beyond_one_batch_are_found(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH_ROWS", 7)
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row(i)) for i in range(40)))
    table = open_table(tmp_path / "x.jsonl", cache)
    assert [table.row(i)[0].id for i in range(40)] == [str(i) for i in range(40)]
    assert table.ids(np.array([39, 0, 7])) == ["39", "0", "7"]
    for wrong in (-1, 40):
        with pytest.raises(IndexError):
            table.row(wrong)
    (tmp_path / "empty.json").write_text("[]")
    assert len(open_table(tmp_path / "empty.json", cache)) == 0


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_jsonl_cut_anywhere_loses_one_row(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """The file also holds one byte that is not UTF-8."""
    folder = tmp_path_factory.mktemp("cut")
    lines = [json.dumps(row(i)).encode() for i in range(4)]
    whole = b"\n".join(lines)
    cut = data.draw(st.integers(len(lines[0]) + 2, len(whole) - 1))
    content = whole[:cut].replace(b"What is 0", b"What \xff 0")
    (folder / "cut.jsonl").write_bytes(content)
    table = open_table(folder / "cut.jsonl", folder / "cache")
    read = list(read_llava(folder / "cut.jsonl"))
    assert [table.row(i)[0] for i in range(len(table))] == [r for r in read if isinstance(r, Example)]
    drops = list(table.dropped_rows())
    assert drops == [r for r in read if isinstance(r, Dropped)]
    assert drops[0].detail.startswith("cut.jsonl:1: ") and len(drops) <= 2


def test_rows_of_wrong_shape_are_dropped_by_name(tmp_path: Path, cache: Path) -> None:
    bad = [5, [], {"id": "x"}, {**row(1), "conversations": "hi"}, {**row(2), "id": {}}, row(3, 4), row(9)]  # type: ignore[arg-type]
    (tmp_path / "x.json").write_text(json.dumps(bad))
    table = open_table(tmp_path / "x.json", cache)
    assert len(table) == 1 and table.n_dropped == 6
    assert [d.reason for d in table.dropped_rows()] == [
        "malformed_row",
        "malformed_row",
        "no_turns",
        "no_turns",
        "malformed_id",
        "malformed_image",
    ]


def test_a_table_is_made_once_and_again_when_the_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row(1)))
    assert [e.id for e in examples(path, cache)] == ["1"]
    with monkeypatch.context() as patch:
        patch.setattr(tables, "_convert", lambda *_: pytest.fail("converted again"))
        assert [e.id for e in examples(path, cache)] == ["1"]
        (tmp_path / "moved").mkdir()
        path = path.rename(tmp_path / "moved" / "x.jsonl")
        assert [e.id for e in examples(path, cache)] == ["1"]
    path.write_text(json.dumps(row(2)))
    assert [e.id for e in examples(path, cache)] == ["2"]


def test_digests_are_remembered_by_size_and_time(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("abc")
    fresh = digest_source_file(path, cache)
    assert not cache.joinpath("digests").exists()  # written just now: it may change within the same tick
    os.utime(path, (1, 1))
    assert digest_source_file(path, cache) == fresh
    with monkeypatch.context() as patch:
        patch.setattr(tables, "build_once", lambda target, *_: target if target.is_dir() else pytest.fail("read again"))
        assert digest_source_file(path, cache) == fresh
    path.write_text("abd")
    os.utime(path, (2, 2))
    assert digest_source_file(path, cache) != fresh


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "not a data source"),
        ({"a.json": "[]", "b.parquet": ""}, "several kinds"),
        ({"a.jsonl": "", "b.jsonl.gz": ""}, r"also holds b\.jsonl\.gz, which a folder of shards does not read"),
        ({"a.jsonl": "", "c.tgz": "", "d.csv": ""}, r"also holds c\.tgz, d\.csv"),
        ({"a.jsonl": "", "sub/b.jsonl": ""}, "also holds sub"),
        ({"run.json": "{}", "shard-00000.jsonl": ""}, "has no manifest.json"),  # a step of ours that has not finished
    ],
)
def test_folders_that_are_no_source(tmp_path: Path, cache: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_table(tmp_path, cache)


def test_shards_in_capitals_and_of_other_names_are_read(tmp_path: Path, cache: Path) -> None:
    for number, name in enumerate(("a.jsonl", "b.JSONL", "c.ndjson", "d.JSON")):
        (tmp_path / name).write_text(json.dumps(row(number)) if name != "d.JSON" else json.dumps([row(number)]))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture("red"))
    write_tar(tmp_path / "images" / "b.tar", {"b.png": picture("red")})  # pictures are no shards
    assert [example.id for example in examples(tmp_path, cache)] == ["0", "1", "2", "3"]
    assert len(examples(tmp_path / "d.JSON", cache)) == 1


def test_damaged_files_are_named(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([row(1), row(2)])[:-20])
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    write_tar(tmp_path / "x.tar", {"a.json": json.dumps(row(1)).encode() * 100})
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:600])
    for name in ("x.json", "x.parquet", "x.tar"):
        with pytest.raises(ValueError, match=name):
            open_table(tmp_path / name, cache)
    with tarfile.open(tmp_path / "z.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match="compressed"):
        open_table(tmp_path / "z.tar", cache)


def test_images_from_parquet_columns(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "blue.png").write_bytes(picture("blue"))
    folder = ImageFolder(tmp_path, cache=cache)
    hf = [
        {**row(0, "x"), "image": None, "images": [{"bytes": picture("red"), "path": None}]},
        {**row(1, "x", "y"), "image": None}
        | {"images": [{"bytes": None, "path": "blue.png"}, {"bytes": picture("red"), "path": "r.png"}]},
        {**row(2), "image": None, "images": None},
    ]
    pq.write_table(
        pa.Table.from_pylist([{k: v for k, v in r.items() if k != "image"} for r in hf]), tmp_path / "hf.parquet"
    )
    assert colours(tmp_path / "hf.parquet", cache, folder) == [[RED], [BLUE, RED], []]
    binary = [{**row(0, "x"), "image": picture("blue")}, {**row(1), "image": None}]
    pq.write_table(pa.Table.from_pylist(binary), tmp_path / "binary.parquet")
    assert colours(tmp_path / "binary.parquet", cache, folder) == [[BLUE], []]


def test_columns_that_no_json_holds_lose_no_row(tmp_path: Path, cache: Path) -> None:
    odd = {"price": Decimal("1.50"), "raw": b"x", "took": timedelta(seconds=3), "notes": [{"raw": b"x", "n": 1}]}
    nothing = {**row(1), "image": {"bytes": None, "path": None}}
    shown = {**row(0, "x"), "image": {"bytes": picture("red"), "path": None}}
    pq.write_table(pa.Table.from_pylist([{**shown, **odd}, {**nothing, **odd}]), tmp_path / "odd.parquet")
    first, second = examples(tmp_path / "odd.parquet", cache)
    kept = {"price": "1.50", "raw": None, "took": "0:00:03", "notes": [{"raw": None, "n": 1}]}
    assert first.extra == second.extra == kept
    assert (len(first.images), len(second.images)) == (1, 0)


def test_columns_that_python_does_not_hold_lose_no_row(tmp_path: Path, cache: Path) -> None:
    many = pa.scalar(123456789, pa.timestamp("ns"))
    columns = {
        "when": pa.array([many, None]),
        "whens": pa.array([[many], []], pa.list_(pa.timestamp("ns"))),
        "far": pa.array([10**7, 1], pa.date32()),
        "half": pa.array([0.5, None], pa.float16()),
        "map": pa.array([[("a", Decimal("1.5"))], None], pa.map_(pa.string(), pa.decimal128(3, 1))),
    }
    rows = pa.Table.from_pylist([row(0), row(1)])
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    pq.write_table(rows, tmp_path / "odd.parquet")
    first, second = examples(tmp_path / "odd.parquet", cache)
    assert first.extra["when"].endswith("00:00:00.123456789") and first.extra["half"] in (0.5, "0.5")
    assert first.extra["map"] == [["a", "1.5"]] and second.extra.keys() <= {"far", "whens"}


def test_an_image_of_nothing_hides_no_other(tmp_path: Path, cache: Path) -> None:
    nothing = {"bytes": None, "path": None}
    shown = {**row(0, "x"), "image": nothing, "images": [nothing, {"bytes": picture("red"), "path": None}]}
    pq.write_table(pa.Table.from_pylist([shown]), tmp_path / "x.parquet")
    assert [len(example.images) for example in examples(tmp_path / "x.parquet", cache)] == [1]


def test_pictures_of_any_kind_are_taken_for_pictures(tmp_path: Path, cache: Path) -> None:
    for number, suffix in enumerate(("avif", "jfif", "heic", "jp2", "PNG")):
        text = json.dumps(row(number, "x")).encode()
        write_tar(tmp_path / f"{number}.tar", {"a.json": text, f"a.{suffix}": picture("red")})
        assert [len(example.images) for example in examples(tmp_path / f"{number}.tar", cache)] == [1], suffix
    text = json.dumps({**row(0, "x"), "image": None}).encode()
    write_tar(tmp_path / "odd.tar", {"a.json": text, "a.img": picture("red")})
    (dropped,) = open_table(tmp_path / "odd.tar", cache).dropped_rows()
    assert dropped.detail.endswith("markers in the human turns; members without the suffix of an image: .img")


def test_images_from_webdataset_shards(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "blue.png").write_bytes(picture("blue"))
    text = {k: json.dumps(v).encode() for k, v in (("0", row(0, "z")), ("1", row(1, "x", "y")), ("2", row(2)))}
    first = {
        "a/0.json": text["0"],
        "a/0.png": picture("red"),
        "a/1.10.png": picture("blue"),
        "a/1.9.png": picture("red"),
    }
    write_tar(tmp_path / "shards" / "00.tar", {**first, "a/1.json": text["1"]})
    named = json.dumps(row(3, "blue.png")).encode()
    without_id = json.dumps({**row(4), "id": None}).encode()
    other = {"2.json": text["2"], "3.json": named, "4.json": without_id, "5.png": picture("red"), "6.json": b"{"}
    write_tar(tmp_path / "shards" / "01.tar", {**other, "7.json": text["0"]}, {"7.png": "/etc/passwd"})
    table = open_table(tmp_path / "shards", cache)
    assert [table.row(i)[0].id for i in range(len(table))] == ["0", "1", "2", "3", "4"]
    folder = ImageFolder(tmp_path, cache=cache)
    assert colours(tmp_path / "shards", cache, folder) == [[RED], [RED, BLUE], [], [BLUE], []]
    assert [(d.id, d.reason) for d in table.dropped_rows()] == [
        ("5", "malformed_row"),
        ("6", "malformed_row"),
        ("7", "image_refused"),
    ]

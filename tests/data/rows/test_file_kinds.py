"""What a file is, is seen before it is parsed; the steps read alike what training reads."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sicog.data.image_folder import ImageFolder
from sicog.data.mix import MixConfig
from sicog.data.mixture import load_sources
from sicog.data.preferences import PairSource, parse_pair
from sicog.data.rows.file_kinds import find_files
from sicog.data.rows.sources import count_file
from sicog.data.rows.table import open_table
from sicog.data.rows.users_rows import open_users_rows
from sicog.formats import QueryParser, RowError, parse_example
from sicog.records import Dropped, Query

datasets = pytest.importorskip("datasets")
QUESTIONS: list[dict[str, Any]] = [{"id": f"q{i}", "image": f"{i}.png", "question": "What?"} for i in range(5)]


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "png")
    return stream.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same unlabelled questions as files of every kind."""
    (tmp_path / "x.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "x.txt").write_text("\n".join(map(json.dumps, QUESTIONS)))
    pq.write_table(pa.Table.from_pylist(QUESTIONS), tmp_path / "x.parquet")
    datasets.Dataset.from_list(QUESTIONS).save_to_disk(str(tmp_path / "arrow"))
    members = {f"q{i}.json": json.dumps({"question": "What?"}).encode() for i in range(5)}
    members |= {f"q{i}.png": png() for i in range(5)}
    write_tar(tmp_path / "x.tar", dict(sorted(members.items())))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.json").write_text(json.dumps(QUESTIONS[:2]))
    (tmp_path / "shards" / "b.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS[2:])))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.png").write_bytes(png())
    lines = [f"q{i},{i}.png,What?" for i in range(5)]
    (tmp_path / "pictures" / "metadata.csv").write_text("\ufeffid,file_name,question\n" + "\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("name", ["x.json", "x.txt", "x.parquet", "arrow", "x.tar", "shards", "pictures"])
def test_unlabelled_rows_of_every_kind(folder: Path, name: str) -> None:
    rows = open_users_rows(folder / name, QueryParser("reasoning"))
    images = [f"q{i}.png" if name == "x.tar" else f"{i}.png" for i in range(5)]
    expected = [Query(id=f"q{i}", task="reasoning", images=(images[i],), question="What?") for i in range(5)]
    assert len(rows) == 5 and list(rows.read(0, 5)) == expected
    assert [*rows.read(0, 2), *rows.read(2, 5)] == expected == [*rows.read(0, 1), *rows.read(1, 5)]


def test_ids_are_unique_through_all_files_of_a_folder(tmp_path: Path) -> None:
    for name, ids in (("a", [None, "x"]), ("b", [None, "x", "0"])):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"id": i, "question": "What?"} for i in ids]))
    found = list(open_users_rows(tmp_path, QueryParser("reasoning")))
    assert [(row.id, isinstance(row, Dropped)) for row in found] == [
        ("0", False), ("x", False), ("2", False), ("x", True), ("0", True),
    ]  # fmt: skip
    assert isinstance(found[3], Dropped) and found[3].detail.startswith("b.json:2: ")


def test_bad_members_and_rows_come_as_drops(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"a.json": b"{", "b.png": png(), "c.json": b'{"question": "What?"}'})
    found = list(open_users_rows(tmp_path / "x.tar", QueryParser("reasoning"), step="sample"))
    assert [(row.id, getattr(row, "step", None)) for row in found] == [("a", "sample"), ("b", "sample"), ("c", None)]


def test_pairs_of_every_kind(folder: Path) -> None:
    pairs = [{"id": "1", "prompt": "What?", "chosen": "a", "rejected": "b"}]
    pq.write_table(pa.Table.from_pylist(pairs), folder / "pairs.parquet")
    datasets.Dataset.from_list(pairs).save_to_disk(str(folder / "pairs"))
    for name in ("pairs.parquet", "pairs"):
        (source,) = load_sources(folder / name)
        assert list(PairSource([source], 0).read(0, 9)) == [parse_pair(pairs[0], "1")]


def test_pictures_within_a_table_are_trained_on_and_not_sampled(tmp_path: Path, cache: Path) -> None:
    row = {"image": {"bytes": png(), "path": "a.png"}, "question": "What?", "answer": "Red."}
    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
    features["answer"] = datasets.Value("string")
    datasets.Dataset.from_list([row], features=features).save_to_disk(str(tmp_path / "arrow"))
    example, places = open_table(tmp_path / "arrow", cache).row(0)
    assert [t.text for t in example.turns] == ["What?", "Red."] and places[0].size == len(png())
    with pytest.raises(ValueError, match="stores its images itself"):
        list(open_users_rows(tmp_path / "arrow", QueryParser("reasoning")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b"PAR1....", "suffix of json, but its content is a parquet file; rename it to end in .parquet"),
        ("x.jsonl", gzip.compress(b"{}", mtime=0), "compressed with gzip; unpack it first"),
        ("x.parquet", b"PK\x03\x04", "a zip archive; unpack it first"),
        ("x.tar", b"PAR1....", "has the suffix of tar"),
        ("x.json", b"\xff\xfe[\x00]\x00", "UTF-16 text; save it as UTF-8"),
        ("x.jsonl", b"\xff\xff\xff\xff....", "an Arrow stream"),
        ("x.json", b'\xef\xbb\xbf\n{\n  "rows": []\n}', "is one JSON object over several lines"),
        ("x.csv", b"a,b\n", r"is not a data source\. Give"),
        ("x.bin", b"\x89PNG", r"is not a data source \(a PNG picture\)"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find_files(tmp_path / name)


def test_folders_and_tars_that_hold_something_else_say_so(folder: Path, cache: Path) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(QUESTIONS)}).save_to_disk(str(folder / "splits"))
    with pytest.raises(ValueError, match=r"holds the splits train .* such as .*splits/train"):
        find_files(folder / "splits")
    (folder / "outer" / "train").mkdir(parents=True)
    (folder / "outer" / "train" / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(ValueError, match="Its folders train do\. Give one of them"):
        find_files(folder / "outer")
    (folder / "pictures" / "metadata.csv").unlink()
    with pytest.raises(ValueError, match="It holds pictures: a file of rows has to name them"):
        find_files(folder / "pictures")
    next((folder / "arrow").glob("*.arrow")).rename(folder / "arrow" / "other.arrow")
    with pytest.raises(ValueError, match=r"\.arrow is missing \(named in state\.json\)"):
        find_files(folder / "arrow")
    write_tar(folder / "pictures.tar", {"a.png": png()})
    with pytest.raises(ValueError, match="holds 1 files and no rows"):
        open_table(folder / "pictures.tar", cache)


def test_rows_are_counted_without_reading_them(folder: Path) -> None:
    for name in ("x.parquet", "arrow", "x.tar", "pictures"):
        assert sum(map(count_file, find_files(folder / name).files)) == len(QUESTIONS), name
    for name in ("x.parquet", "x.tar"):
        (folder / name).write_bytes((folder / name).read_bytes()[:700])
        with pytest.raises(ValueError, match=f"{name} is"):
            count_file(folder / name)


def test_braces_are_files_wherever_sources_are_given(folder: Path) -> None:
    both = [folder / "shards" / "a.json", folder / "shards" / "c.json"]
    braces = str(folder / "shards" / "{a, c}.json")
    assert [s.path for s in MixConfig.model_validate({"sources": [{"path": braces}], "out_dir": "x"}).sources] == both
    for text in (
        "sources:\n- {path: 'P', take: 'first:2'}\n",
        "datasets:\n- {json_path: 'P', sampling_strategy: 'first:2'}\n",
    ):
        (folder / "mixture.yaml").write_text(text.replace("P", braces))
        assert [(s.path, s.take) for s in load_sources(folder / "mixture.yaml")] == [(p, "first:2") for p in both]


def test_an_image_folder_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_folder .*imagse does not exist"):
        ImageFolder(tmp_path / "imagse", cache=tmp_path)


PARTS = [{"type": "image"}, {"type": "text", "text": "What?"}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"type": "video"}], "video"),
        ([{"type": "audio", "audio": "a.wav"}], "malformed_turn"),
        ([{"type": "text", "text": 3}], "malformed_turn"),
        ([{"type": "image"}, {"type": "image"}], "marker_count"),
    ],
)
def test_parts_that_cannot_be_read_are_refused(content: list[dict[str, Any]], reason: str) -> None:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "Red."}]
    with pytest.raises(RowError) as error:
        parse_example({"image": "a.png", "messages": messages}, "1")
    assert error.value.reason == reason
    pair = {"image": "a.png", "prompt": messages[:1], "chosen": "a", "rejected": "b"}
    with pytest.raises(RowError) as error:
        parse_pair(pair, "1")
    assert error.value.reason == reason


def test_an_image_in_an_answer_is_refused() -> None:
    messages = [{"role": "user", "content": PARTS}, {"role": "assistant", "content": PARTS}]
    with pytest.raises(RowError, match="turn 2 is an answer with an image part"):
        parse_example({"image": "a.png", "messages": messages}, "1")
    with pytest.raises(RowError, match="chosen is an answer with an image part"):
        parse_pair({"image": "a.png", "prompt": "What?", "chosen": messages[1:], "rejected": "b"}, "1")


def test_images_that_parts_name_are_the_rows() -> None:
    for part in ({"image": "a.png"}, {"path": "a.png"}, {"url": "a.png"}, {"image_url": {"url": "a.png"}}):
        user = {"role": "user", "content": [{"type": "image", **part}, PARTS[1]]}
        example = parse_example({"messages": [user, {"role": "assistant", "content": "Red."}]}, "1")
        assert (example.images, example.turns[0].images_at, example.turns[0].text) == (("a.png",), (0,), "What?")
        assert parse_pair({"prompt": [user], "chosen": "a", "rejected": "b"}, "1").images == ("a.png",)


def test_columns_of_a_row_with_turns_stay_in_extra() -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "Red."}]
    more = {"file_name": "a.png", "question": "Why?", "answer": "So.", "text": "no caption"}
    example = parse_example({"conversations": turns, **more}, "1")
    assert (example.images, example.turns[0].text, example.extra) == ((), "What?", more)
    marked = [{"from": "human", "value": "<image>\nWhat?"}, turns[1]]
    assert parse_example({"conversations": marked, "file_name": "a.png"}, "1").images == ("a.png",)


def test_what_is_no_turn_says_which_keys_are_known() -> None:
    with pytest.raises(
        RowError, match="'conversations' or 'messages' .*'question' and 'answer'.*its keys are id, prompts"
    ):
        parse_example({"id": 1, "prompts": "x"}, "1")
    with pytest.raises(RowError, match="answer must be a text, got 3"):
        parse_example({"question": "How many?", "answer": 3}, "1")
    with pytest.raises(RowError, match="got human$"):
        parse_example({"conversations": [{"from": "human", "value": "What?"}]}, "1")


def test_data_check_without_a_checkpoint_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys\nfrom sicog.data.check import CheckConfig, check\n"
        f"data = {{'path': {str(folder / 'qa.json')!r}, 'image_folder': {str(folder / 'pictures')!r}, "
        f"'cache_dir': {str(folder / 'cache')!r}}}\n"
        "assert check(CheckConfig.model_validate({'data': data}))\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    (folder / "qa.json").write_text(json.dumps([{"image": "0.png", "question": "What?", "answer": "Red."}]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr

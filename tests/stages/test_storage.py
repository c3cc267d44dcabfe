"""storage.py: atomic writes, and only finished datasets are read."""

import errno
import os

import pytest

from sicog.records import Example, Query
from sicog.stages.provenance import digest_path
from sicog.stages.storage import (
    atomic_write,
    count_rows,
    lines_of,
    make_readable,
    open_table,
    read_records,
    shards,
    truncate_to_last_line,
    write_dataset,
    write_json,
    write_records,
)


def queries(n):
    return [Query(id=str(i), task="reasoning", question=f"q{i}?") for i in range(n)]


def test_a_dataset_round_trips_over_several_shards(tmp_path):
    assert write_dataset(tmp_path / "d", queries(25), rows_per_shard=10) == 25
    assert len(shards(tmp_path / "d")) == 3
    assert list(read_records(tmp_path / "d", Query)) == queries(25)
    assert count_rows(tmp_path / "d") == 25


def test_an_unfinished_folder_is_not_read(tmp_path):
    write_records(tmp_path / "d" / "shard-00000.jsonl", queries(2))
    with pytest.raises(ValueError, match="has not finished"):
        list(read_records(tmp_path / "d", Query))


def test_a_row_of_another_type_names_file_and_line(tmp_path):
    write_dataset(tmp_path / "d", queries(2))
    with pytest.raises(ValueError, match=r"shard-00000.jsonl:1 is not an Example"):
        list(read_records(tmp_path / "d", Example))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("full", [errno.ENOSPC, errno.EDQUOT])  # the disk itself, or one's share of it
def test_a_full_disk_is_one_clear_sentence(tmp_path, full):
    with pytest.raises(ValueError, match="disk is full"), atomic_write(tmp_path / "x"):
        raise OSError(full, "full")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_half_written_tail_is_cut_off(tmp_path, cut):
    path = tmp_path / "journal"
    path.write_bytes(b'{"a":1}\n{"a":2}\n'[:-cut])
    lines = truncate_to_last_line(path)
    assert lines == [b'{"a":1}\n'][: 0 if cut > 8 else 1]
    assert path.read_bytes() == b"".join(lines)


def test_a_table_of_excel_is_read_behind_its_mark_and_another_encoding_is_named(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbfindex\tanswer\n1\tcaf\xc3\xa9\n")
    with open_table(tmp_path / "a.tsv") as rows:
        assert list(rows) == [{"index": "1", "answer": "caf\u00e9"}]
    (tmp_path / "b.tsv").write_bytes(b"index\tanswer\n1\tcaf\xe9\n")
    with pytest.raises(ValueError, match=r"b\.tsv is not UTF-8"), open_table(tmp_path / "b.tsv") as rows:
        list(rows)


def test_a_folder_with_a_name_that_is_not_utf_8_has_a_digest(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    first = digest_path(tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).rename(tmp_path / os.fsdecode(b"caf\xe8.txt"))
    assert digest_path(tmp_path) != first


def test_an_output_that_is_a_folder_is_said_with_the_users_name(tmp_path):
    (tmp_path / "out.json").mkdir()
    with pytest.raises(ValueError, match=r"out\.json is a folder; give the path of a file"):
        write_json(tmp_path / "out.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770), (0o077, 0o600, 0o700)]
)
def test_files_are_as_readable_as_the_umask_lets_new_ones_be(tmp_path, umask, file, folder):
    inner, weights = tmp_path / "checkpoint" / "parts", tmp_path / "checkpoint" / "parts" / "model.safetensors"
    inner.mkdir(parents=True)
    weights.touch(0o600)
    inner.chmod(0o700)
    before = os.umask(umask)
    try:
        make_readable(tmp_path / "checkpoint")
        assert os.umask(umask) == umask  # as it was
    finally:
        os.umask(before)
    assert (weights.stat().st_mode & 0o777, inner.stat().st_mode & 0o777) == (file, folder)


def test_lines_of_a_shard_by_number(tmp_path):
    path = tmp_path / "shard-00000.jsonl"
    path.write_bytes(b"1\n\n3\n4")
    assert list(lines_of(path)) == [b"1\n", b"\n", b"3\n", b"4"]
    assert list(lines_of(path, 1, 3)) == [b"\n", b"3\n"] and list(lines_of(path, 2)) == [b"3\n", b"4"]
    assert list(lines_of(path, 3, 6)) == [b"4", b"", b""]  # where it ends too soon
    assert list(lines_of(path, 2, 2)) == []

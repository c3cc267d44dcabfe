"""The columns of scores: what they hold, when they are made again, and any range of them."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from sicog.curation.score import columns as module
from sicog.curation.score.columns import RawRows, all_columns, columns_of, count_rows, read_columns
from sicog.records import ScoredSet
from sicog.stages.reader import FolderSource
from sicog.stages.storage import write_dataset, write_json


def rows_of(make, n):
    marks = [("dd", "a", 0.9, None), ("cod", make.cod("b"), 0.5, None), ("dd", "c", None, None)]
    return [make.scored_set(str(i), "captioning", marks[: i % 4], encoder=f"e{i % 2}") for i in range(n)]


def test_they_are_a_table_that_others_can_read(tmp_path, make):
    write_dataset(tmp_path / "scored", rows_of(make, 8))
    table = pq.read_table(columns_of(tmp_path / "scored")).to_pydict()
    assert table["id"] == list("01234567") and table["encoder"] == ["e0", "e1"] * 4
    assert table["style"][3] == ["dd", "cod", "dd"] and table["excluded"][3] == [None, None, "cut"]
    assert table["score"][2] == [0.9, 0.5] and table["score"][4] == []


@pytest.mark.parametrize("group", [3, 8192])
def test_any_range_is_read_over_row_groups(tmp_path, make, monkeypatch, group):
    monkeypatch.setattr(module, "ROWS", group)
    write_dataset(tmp_path / "scored", rows_of(make, 20), rows_per_shard=7)
    path = columns_of(tmp_path / "scored")
    found = read_columns(path, 5, 15)
    assert found.ids == [str(i) for i in range(5, 15)] and found.sizes.tolist() == [i % 4 for i in range(5, 15)]
    assert [found.encoder.names[c] for c in found.encoder.codes] == [f"e{i % 2}" for i in range(5, 15)]
    assert found.per_row(~np.isnan(found.score)).tolist() == [min(i % 4, 2) for i in range(5, 15)]
    assert count_rows(path) == 20 == sum(len(part.ids) for part in all_columns(path))
    raw = list(RawRows(FolderSource(tmp_path / "scored", ScoredSet)).read(5, 15))
    assert [row.number for row in raw] == list(range(5, 15)) and b'"id":"14"' in raw[-1].line


def test_those_of_other_row_groups_are_made_again(tmp_path, make, monkeypatch):
    write_dataset(tmp_path / "scored", rows_of(make, 9))
    columns_of(tmp_path / "scored")
    monkeypatch.setattr(module, "ROWS", 4)
    assert read_columns(columns_of(tmp_path / "scored"), 4, 9).ids == list("45678")


def test_they_follow_the_shards(tmp_path, make):
    write_dataset(tmp_path / "scored", rows_of(make, 3))
    path = columns_of(tmp_path / "scored")
    before = path.stat().st_mtime_ns
    assert columns_of(tmp_path / "scored").stat().st_mtime_ns == before
    (tmp_path / "scored" / "manifest.json").unlink()
    write_dataset(tmp_path / "scored", rows_of(make, 5))
    assert read_columns(columns_of(tmp_path / "scored"), 0, 5).ids == list("01234")


def test_none_at_all_and_rows_that_cannot_be_read(tmp_path, make):
    write_dataset(tmp_path / "empty", [])
    assert count_rows(columns_of(tmp_path / "empty")) == 0 and not list(all_columns(columns_of(tmp_path / "empty")))
    write_dataset(tmp_path / "scored", rows_of(make, 3))
    shard = tmp_path / "scored" / "shard-00000.jsonl"
    shard.write_bytes(shard.read_bytes().replace(b'"id":"1"', b'"ID":"1"'))
    write_json(tmp_path / "scored" / "manifest.json", {"rows_out": 4, "rows_per_shard": {shard.name: 4}})
    found = read_columns(columns_of(tmp_path / "scored"), 0, 4)
    assert found.ids == ["0", "shard-00000.jsonl:2", "2", "shard-00000.jsonl:4"]
    assert [bool(u) for u in found.unreadable] == [False, True, False, True] and found.sizes.tolist() == [0, 0, 2, 0]

"""Grouping runs by id: unequal counts, order, duplicates, runs of different inputs."""

import numpy as np
import pytest

from sicog.generation.group import GroupConfig, group
from sicog.records import Candidate, CandidateSet, Query
from sicog.stages.candidates import RunsSource
from sicog.stages.provenance import digest_path
from sicog.stages.storage import read_json, read_records, write_dataset, write_records


def _set(row_id, *, style="cod", n=1, seed=0, checkpoint="a" * 64, question="", first=0):
    query = Query(id=row_id, task="captioning", images=(f"{row_id}.png",), question=question)
    candidates = tuple(
        Candidate(
            query_id=row_id,
            style=style,
            prompt="p",
            index=first + i,
            seed=seed,
            text=f"{style} {seed} {i}",
            finish_reason="stop",
            n_tokens=3,
            checkpoint=checkpoint,
        )
        for i in range(n)
    )
    return CandidateSet(id=row_id, query=query, candidates=candidates)


def _grouped(tmp_path, *runs, inputs=None):
    for i, rows in enumerate(runs):
        write_dataset(tmp_path / f"run-{i}", rows, rows_per_shard=2)
    names = inputs or [str(tmp_path / f"run-{i}") for i in range(len(runs))]
    folder = group(GroupConfig(input=tuple(names), out_dir=tmp_path / "grouped", block_size=2))
    return {row.id: row for row in read_records(folder, CandidateSet)}


def test_rows_are_joined_by_id_and_counts_may_differ(tmp_path):
    sets = _grouped(
        tmp_path,
        [_set(x, n=2) for x in "abc"],
        [_set(x, style="dd") for x in "cadx"],  # another order, a row missing, others new
        [_set("a", seed=1)],
    )
    assert list(sets) == ["a", "b", "c", "d", "x"]
    assert [len(s.candidates) for s in sets.values()] == [4, 2, 3, 1, 1]
    assert [(c.style, c.seed) for c in sets["a"].candidates] == [("cod", 0), ("cod", 0), ("dd", 0), ("cod", 1)]
    assert read_json(tmp_path / "grouped" / "manifest.json")["rows_in"] == 5


def test_globs_name_runs_and_a_folder_may_hold_brackets(tmp_path):
    write_dataset(tmp_path / "t[0.7]", [_set("a", seed=9)])
    inputs = [str(tmp_path / "run-*"), str(tmp_path / "t[0.7]"), str(tmp_path / "run-0")]
    sets = _grouped(tmp_path, [_set("a")], [_set("a", style="dd")], inputs=inputs)
    assert len(sets["a"].candidates) == 3


def test_the_same_candidate_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="row b: two candidates have style cod, index 0, seed 0"):
        _grouped(tmp_path, [_set("a"), _set("b")], [_set("b")])


def test_other_checkpoints_may_repeat_the_seed(tmp_path):
    sets = _grouped(tmp_path, [_set("a")], [_set("a", checkpoint="b" * 64)])
    assert len(sets["a"].candidates) == 2


def test_runs_of_different_inputs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="row a: the runs were made from different queries"):
        _grouped(tmp_path, [_set("a")], [_set("a", style="dd", question="other")])


def test_missing_unfinished_and_foreign_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        group(GroupConfig(input=(str(tmp_path / "nowhere*"),), out_dir=tmp_path / "o"))
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(ValueError, match="has not finished"):
        group(GroupConfig(input=(str(tmp_path / "unfinished"),), out_dir=tmp_path / "o"))
    write_dataset(tmp_path / "queries", [Query(id="a", task="captioning", images=("a.png",))])
    with pytest.raises(ValueError, match="no CandidateSet"):
        group(GroupConfig(input=(str(tmp_path / "queries"),), out_dir=tmp_path / "o2"))


def test_runs_that_carry_other_extra_keys_are_of_the_same_query(tmp_path):
    query = _set("a").query.model_copy(update={"extra": {"origin": "web"}})
    sets = _grouped(tmp_path, [_set("a").model_copy(update={"query": query})], [_set("a", style="dd")])
    assert sets["a"].query.extra == {"origin": "web"} and len(sets["a"].candidates) == 2


def test_a_run_behind_a_glob_is_digested(tmp_path):
    inputs = (str(tmp_path / "run-*"),)
    _grouped(tmp_path, [_set("a")], [_set("a", style="dd")], inputs=inputs)
    digests = read_json(tmp_path / "grouped" / "run.json")["inputs"]
    assert digests == {f"run-{i}": digest_path(tmp_path / f"run-{i}") for i in range(2)}
    write_records(tmp_path / "run-1" / "shard-00000.jsonl", [_set("a", style="dd", n=2)])
    with pytest.raises(ValueError, match=r"belongs to another run \(inputs.run-1 was"):
        group(GroupConfig(input=inputs, out_dir=tmp_path / "grouped", block_size=2))


def test_many_ids_in_any_order_are_grouped_as_a_dictionary_would(tmp_path):
    rng = np.random.default_rng(0)
    runs = [[f"id-{i}" for i in rng.permutation(60)[:n]] for n in (50, 1, 37)]
    for number, ids in enumerate(runs):
        write_dataset(tmp_path / f"r-{number}", [_set(i, seed=number) for i in ids], rows_per_shard=7)
    expected: dict[str, list[int]] = {}
    for number, ids in enumerate(runs):
        for row_id in ids:
            expected.setdefault(row_id, []).append(number)
    source = RunsSource([tmp_path / f"r-{number}" for number in range(3)])
    found = list(source.read(0, len(source)))
    assert {s.id: [c.seed for c in s.candidates] for s in found} == expected
    assert [s.id for s in found] == list(expected)
    assert [s.id for s in source.read(20, 25)] == list(expected)[20:25]
    assert all(source.find(s.id) == s for s in found) and source.find("id-99") is None
    write_dataset(tmp_path / "empty", [])
    empty = RunsSource([tmp_path / "empty"])
    assert len(empty) == 0 and list(empty.read(0, 5)) == [] and empty.find("a") is None

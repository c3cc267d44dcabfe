"""The pre-training set: amounts per source, seeded order, unique ids, nothing lost."""

from __future__ import annotations

import pytest

from sicog.curation.build import BuildConfig, BuildSource, build
from sicog.records import Example, Turn
from sicog.storage import read_json, read_records, write_dataset


def example(row_id: str, text: str) -> Example:
    return Example(id=row_id, turns=(Turn(role="user", text="say"), Turn(role="assistant", text=text)))


@pytest.fixture
def folders(tmp_path):
    for name, ids in {"captions": range(20), "reasoning": range(10, 25), "text": ("x", "y", "z")}.items():
        write_dataset(tmp_path / name, [example(str(i), f"{name} {i}") for i in ids], rows_per_shard=7)
    return tmp_path


def run(folder, name="built", seed=0, **amounts):
    sources = tuple(BuildSource(name=n, path=folder / n, **amount) for n, amount in amounts.items())
    out = build(BuildConfig(sources=sources, out_dir=folder / name, seed=seed, rows_per_shard=16))
    return list(read_records(out, Example))


def test_all_rows_come_once_in_seeded_order_under_unique_ids(folders):
    rows = run(folders, captions={}, reasoning={}, text={})
    assert len(rows) == 38 == len({r.id for r in rows})
    assert {r.id for r in rows if r.source == "text"} == {"x", "y", "z"}
    assert {r.id for r in rows if r.source == "captions"} == {
        *map(str, range(10)),
        *(f"captions:{i}" for i in range(10, 20)),
    }
    assert {r.turns[1].text for r in rows} >= {"captions 12", "reasoning 12"}
    assert all(r.turns[1].text == f"{r.source} {r.id.split(':')[-1]}" for r in rows)
    sources = [r.source for r in rows]
    assert sources != sorted(sources)
    manifest = read_json(folders / "built/manifest.json")
    assert manifest["rows_by_source"] == {"captions": 20, "reasoning": 15, "text": 3}
    assert manifest["rows_in"] == manifest["rows_out"] == 38
    assert rows == run(folders, captions={}, reasoning={}, text={})
    assert rows == run(folders, name="again", captions={}, reasoning={}, text={})
    other = run(folders, name="other", seed=1, captions={}, reasoning={}, text={})
    assert rows != other and {r.id for r in rows} == {r.id for r in other}


def test_counts_and_weights(folders):
    rows = run(folders, captions={"count": 5}, reasoning={"weight": 0.2}, text={"weight": 2.5})
    by_source = {name: [r.id for r in rows if r.source == name] for name in ("captions", "reasoning", "text")}
    assert {name: len(ids) for name, ids in by_source.items()} == {"captions": 5, "reasoning": 3, "text": 8}
    assert {"x", "x#2", "y", "y#2", "z", "z#2"} < set(by_source["text"])
    assert sum(i.endswith("#3") for i in by_source["text"]) == 2
    assert len({r.id for r in rows}) == 16
    more = run(folders, name="more", captions={"count": 6}, reasoning={"count": 0}, text={})
    assert {i.split(":")[-1] for i in by_source["captions"]} < {
        r.id.split(":")[-1] for r in more if r.source == "captions"
    }


def test_mistakes_are_sentences(folders):
    with pytest.raises(ValueError, match="source text: count 4, but .* holds 3 rows"):
        run(folders, text={"count": 4})
    with pytest.raises(ValueError, match="count or weight, not both"):
        BuildSource(name="a", path=folders, count=1, weight=1)
    with pytest.raises(ValueError, match="a is given twice"):
        source = BuildSource(name="a", path=folders)
        BuildConfig(sources=(source, source), out_dir=folders / "out")
    write_dataset(folders / "twice", [example("1", "a"), example("1", "b")])
    with pytest.raises(ValueError, match=r"shard-00000.jsonl:2: id '1' is twice"):
        run(folders, twice={})
    with pytest.raises(ValueError, match="no such dataset folder"):
        run(folders, missing={})

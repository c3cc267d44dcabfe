"""mix.py: counts and shares of sources, seeded, streamed, with a manifest."""

import json
from pathlib import Path

import pytest

from sicog.config import load_config
from sicog.curation.build.build import BuildConfig
from sicog.data.mix import MixConfig, mix
from sicog.data.mixture import Source
from sicog.records import Example, Turn
from sicog.stages.storage import read_json, read_records, write_dataset

RECIPES = Path(__file__).parents[2] / "recipes"


def example(row_id):
    return Example(id=row_id, turns=(Turn(role="user", text="Which?"), Turn(role="assistant", text=row_id)))


@pytest.fixture
def sources(tmp_path):
    """A dataset of ours with several shards, and a user's file with a broken line and an id that is there twice."""
    write_dataset(tmp_path / "ours", (example(f"o{i}") for i in range(50)), rows_per_shard=8)
    turns = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "B"}]
    rows = [json.dumps({"id": f"u{i // 2}", "conversations": turns}) for i in range(40)]
    (tmp_path / "theirs.jsonl").write_text("\n".join([*rows[:3], "{broken", *rows[3:]]))
    return tmp_path


def mixed(folder, *takes, seed=0, out="mixed", **more):
    paths = [folder / "ours", folder / "theirs.jsonl"]
    listed = [{"path": path, "take": take} for path, take in zip(paths, takes, strict=True)]
    mix(MixConfig(sources=listed, out_dir=folder / out, seed=seed, cache_dir=folder / "cache", **more))
    return [e.id for e in read_records(folder / out, Example)], read_json(folder / out / "manifest.json")


def test_counts_and_shares_in_the_order_of_the_sources(sources):
    ids, manifest = mixed(sources, "first:5", "end:25%")
    assert ids == ["o0", "o1", "o2", "o3", "o4"] + [f"u{i // 2}" for i in range(30, 40)]
    ours, theirs = manifest["sources"]
    assert (ours["taken"], ours["left"], ours["dropped"]) == (5, 45, 0)
    assert (theirs["taken"], theirs["left"], theirs["dropped"]) == (10, 30, 1)
    assert manifest["dropped"] == {"malformed_row": 1} and manifest["rows_in"] == manifest["rows_out"] + 1 == 16


def test_random_rows_depend_on_the_seed_alone(sources):
    first, _ = mixed(sources, "random:20", "random:10")
    assert mixed(sources, "random:20", "random:10", out="again")[0] == first
    assert mixed(sources, "random:20", "random:10", out="other", seed=1)[0] != first
    assert len(first) == 30 and sum(i.startswith("o") for i in first) == 20


def test_it_draws_the_rows_that_training_would(sources):
    from sicog.data.mixture import read_mixture

    takes = [Source(path=sources / "ours", take="random:7"), Source(path=sources / "theirs.jsonl", take="random:30%")]
    ids, _ = mixed(sources, "random:7", "random:30%", seed=3)
    mixture = read_mixture(takes, 3, sources / "cache")
    places = zip(mixture.selection.table, mixture.selection.row, strict=True)
    assert ids == [mixture.tables[t].row(int(r))[0].id for t, r in places]


def test_a_weight_repeats_rows(sources):
    takes = [Source(path=sources / "ours", take="first:4", weight=2.5)]
    mix(MixConfig(sources=takes, out_dir=sources / "w", cache_dir=sources / "cache"))
    ids = [e.id for e in read_records(sources / "w", Example)]
    assert ids[:8] == ["o0", "o1", "o2", "o3"] * 2 and len(ids) == 10
    assert read_json(sources / "w" / "manifest.json")["sources"][0]["taken"] == 10


def test_counts_caps_and_shares_of_a_total(sources):
    ours, theirs = {"path": sources / "ours", "share": 0.6}, {"path": sources / "theirs.jsonl", "share": 0.4}
    folder = {"cache_dir": sources / "cache"}
    mix(MixConfig(sources=[ours, theirs], total=25, out_dir=sources / "s", **folder))
    ids = [e.id for e in read_records(sources / "s", Example)]
    assert [i[0] for i in ids] == ["o"] * 15 + ["u"] * 10
    manifest = read_json(sources / "s" / "manifest.json")
    assert [(s["taken"], s["left"]) for s in manifest["sources"]] == [(15, 35), (10, 30)]
    with pytest.raises(ValueError, match="share 0.6 of total 100 is 60 rows, but .*ours holds 50 .* total can be 83"):
        mix(MixConfig(sources=[ours, theirs], total=100, out_dir=sources / "t", **folder))
    mix(MixConfig(sources=[ours, theirs], total=100, when_short="take_all", out_dir=sources / "t", **folder))
    assert len(list(read_records(sources / "t", Example))) == 90
    counts = [ours | {"share": None, "count": 3}, theirs | {"share": None, "at_most": 99}]
    mix(MixConfig(sources=counts, out_dir=sources / "c", **folder))
    assert len(list(read_records(sources / "c", Example))) == 43
    with pytest.raises(ValueError, match="give a share: of how many rows, says total"):
        MixConfig(sources=[ours], out_dir=sources / "n")


def test_a_mistake_is_said(sources, tmp_path):
    with pytest.raises(ValueError, match="has 50 usable rows, fewer than take"):
        mixed(sources, "first:51", "all")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match="is not a data source"):
        mix(MixConfig(sources=[{"path": tmp_path / "x.txt"}], out_dir=tmp_path / "y", cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("name", ["captions", "reasoning"])
def test_the_warm_up_sets_have_70_thousand_rows(name):
    config = load_config(MixConfig, RECIPES / f"warmup-{name}.yaml")
    assert [s.take for s in config.sources] == ["first:35000"] * 2


def test_what_was_mixed_and_built_before_these_keys_existed_is_still_finished(tmp_path):
    """The identities that version 0.1 wrote into run.json."""
    config = MixConfig(sources=({"path": "a.json"},), out_dir=tmp_path)
    assert config.identity() == {"sources": [{"take": "all", "weight": 1.0}], "seed": 0}
    built = BuildConfig(sources=({"name": "a", "path": "a.json"},), out_dir=tmp_path)
    assert "take" not in built.identity()["sources"][0]
    assert MixConfig(sources=({"path": "a.json", "count": 3},), out_dir=tmp_path).identity() != config.identity()

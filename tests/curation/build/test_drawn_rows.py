"""`sicog mix` and `sicog build` draw the rows that version 0.1 drew: digests of what it wrote, config by config."""

import hashlib

import pytest

from sicog.curation.build.build import BuildConfig, build
from sicog.data.mix import MixConfig, mix
from sicog.records import Example, Turn
from sicog.stages.storage import shards, write_dataset

SIZES = {"a": 50, "b": 33, "c": 7}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    for name, n in SIZES.items():
        rows = [(f"{name if i % 3 else ''}{i}", {"agreement": 0.2 + i % 4}) for i in range(n)]
        turns = (Turn(role="user", text="Which?"), Turn(role="assistant", text=f"one of {name}"))
        write_dataset(folder / name, [Example(id=i, turns=turns, extra=extra) for i, extra in rows], rows_per_shard=20)
    return folder


def digest(folder):
    return hashlib.sha256(b"".join(path.read_bytes() for path in shards(folder))).hexdigest()[:12]


MIXED = {
    "all": ({"a": {}, "b": {}, "c": {}}, 0),
    "takes": ({"a": {"take": "first:12.5%"}, "b": {"take": "end:4"}, "c": {"take": "random:5"}}, 0),
    "weights": ({"a": {"weight": 0.25}, "b": {"weight": 2.5}, "c": {"weight": 1.1}}, 3),
    "both": ({"a": {"take": "random:30%", "weight": 1.9}, "b": {"take": "first:9", "weight": 0.01}, "c": {}}, 1),
}
BUILT = {
    "all": ({"a": {}, "b": {}, "c": {}}, {}),
    "counts": ({"a": {"count": 13}, "b": {"count": 0}, "c": {"at_most": 100}}, {"seed": 2}),
    "weights": ({"a": {"weight": 0.25}, "b": {"weight": 2.5}, "c": {"weight": 1.1}}, {"seed": 3}),
    "shares": ({"a": {"share": 0.5}, "b": {"share": 0.3}, "c": {"share": 0.2}}, {"total": 31}),
    "shares beside": ({"a": {"share": 0.5}, "b": {"share": 0.325}, "c": {}}, {"total": 40}),
    "short": (
        {"a": {"share": 0.5}, "b": {"at_most": 20}, "c": {"share": 0.25}},
        {"total": 80, "when_short": "take_all"},
    ),
    "by mark": ({"a": {"weight_by": "agreement", "count": 20}, "b": {"weight_by": "agreement"}, "c": {}}, {"seed": 1}),
}
WRITTEN = {
    ("mix", "all"): "60d0d172201f",
    ("mix", "takes"): "28932c7cd74f",
    ("mix", "weights"): "26613b001083",
    ("mix", "both"): "d3329786f3b7",
    ("build", "all"): "35ec8e21f9b5",
    ("build", "counts"): "483edd6ded42",
    ("build", "weights"): "cd808ec94c49",
    ("build", "shares"): "51cbe49a8ddb",
    ("build", "shares beside"): "fe7c1562f88a",
    ("build", "short"): "f9d52e4ee665",
    ("build", "by mark"): "1647d5860a8d",
}


def write(tool, world, out, name):
    if tool == "mix":
        sources, seed = MIXED[name]
        listed = [{"path": world / path, **keys} for path, keys in sources.items()]
        return mix(MixConfig(sources=listed, out_dir=out, seed=seed, cache_dir=world / "cache"))
    sources, keys = BUILT[name]
    listed = [{"name": path, "path": world / path, **amount} for path, amount in sources.items()]
    return build(BuildConfig(sources=listed, out_dir=out, cache_dir=world / "cache", **keys))


@pytest.mark.parametrize(("tool", "name"), [*(("mix", n) for n in MIXED), *(("build", n) for n in BUILT)])
def test_the_rows_are_those_of_version_0_1(world, tmp_path, tool, name):
    assert digest(write(tool, world, tmp_path / "out", name)) == WRITTEN[tool, name]

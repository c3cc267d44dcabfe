"""The grammar of mixing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sicog.data.mixture import Source, load_sources, read_mixture
from sicog.records import Example, Turn
from sicog.storage import write_dataset


def example(name: str) -> Example:
    return Example(id=name, turns=(Turn(role="user", text="hi"), Turn(role="assistant", text="yes")))


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "ours", [example(f"o{i}") for i in range(10)])
    return tmp_path / "ours"


@pytest.fixture
def users(tmp_path: Path) -> Path:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]
    rows = [{"id": f"u{i}", "conversations": turns} for i in range(5)] + [{"id": "bad", "conversations": []}]
    path = tmp_path / "users.json"
    path.write_text(json.dumps(rows))
    return path


def ids(*sources: Source, seed: int = 0) -> list[str]:
    return [e.id for e in read_mixture(sources, seed).examples]


@pytest.mark.parametrize(
    ("take", "expected"),
    [
        ("all", list(range(10))),
        ("first:3", [0, 1, 2]),
        ("end:2", [8, 9]),
        ("first:25%", [0, 1, 2]),
        ("end:10%", [9]),
        ("random:100%", list(range(10))),
    ],
)
def test_take(ours: Path, take: str, expected: list[int]) -> None:
    assert ids(Source(path=ours, take=take)) == [f"o{i}" for i in expected]


def test_random_depends_on_seed_and_place_alone(ours: Path, tmp_path: Path) -> None:
    source = Source(path=ours, take="random:5")
    moved = tmp_path / "moved"
    ours.rename(moved)
    first = ids(Source(path=moved, take="random:5"))
    moved.rename(ours)
    assert ids(source) == first and len(set(first)) == 5
    assert ids(source, seed=1) != first
    assert ids(source, source)[:5] == first and ids(source, source)[5:] != first


def test_sources_are_joined_in_order_and_drops_are_kept(ours: Path, users: Path) -> None:
    mixture = read_mixture([Source(path=users), Source(path=ours, take="first:1")], seed=0)
    assert [e.id for e in mixture.examples] == ["u0", "u1", "u2", "u3", "u4", "o0"]
    assert [(d.id, d.reason) for d in mixture.dropped] == [("bad", "no_turns")]
    assert mixture.left == 9


@pytest.mark.parametrize("take", ["some", "first:", "first:0", "first:101%", "random:1.5", "end:-1", "first:0%"])
def test_a_wrong_take_is_refused(take: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take"):
        Source(path=tmp_path, take=take)


def test_more_rows_than_there_are_is_an_error(ours: Path) -> None:
    with pytest.raises(ValueError, match="10 usable rows"):
        ids(Source(path=ours, take="first:11"))


def test_yaml_mixtures_ours_and_llava(ours: Path, users: Path, tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(f"sources:\n- {{path: '{ours}', take: 'first:2'}}\n- {{path: '{users}'}}\n")
    assert ids(*load_sources(path)) == ["o0", "o1", "u0", "u1", "u2", "u3", "u4"]
    path.write_text(f"datasets:\n- {{json_path: '{users}', sampling_strategy: 'end:1'}}\n")
    assert ids(*load_sources(path)) == ["u4"]
    path.write_text(f"sources:\n- {{paths: '{users}'}}\n")
    with pytest.raises(ValueError, match="unknown key"):
        load_sources(path)


def test_something_else_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data source"):
        ids(Source(path=tmp_path / "x.csv"))

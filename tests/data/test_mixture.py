"""The grammar of mixing."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sicog.data.config import DataConfig
from sicog.data.mixture import Source, _taken_rows, chosen_rows, load_sources, read_mixture
from sicog.records import Example, Turn
from sicog.stages.storage import write_dataset


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


@pytest.fixture
def ids(cache: Path):
    def read(*sources: Source, seed: int = 0) -> list[str]:
        mixture = read_mixture(sources, seed, cache)
        chosen = zip(mixture.selection.table, mixture.selection.row, strict=True)
        return [mixture.tables[t].row(r)[0].id for t, r in chosen]

    return read


@pytest.mark.parametrize(
    ("take", "expected"),
    [
        ("all", list(range(10))),
        ("first:3", [0, 1, 2]),
        ("end:2", [8, 9]),
        ("first:25%", [0, 1, 2]),
        ("first:12.5%", [0, 1]),  # fractions of a percent
        ("end:10%", [9]),
        ("random:100%", list(range(10))),
    ],
)
def test_take(ids, ours: Path, take: str, expected: list[int]) -> None:
    assert ids(Source(path=ours, take=take)) == [f"o{i}" for i in expected]


def test_random_depends_on_seed_and_place_alone(ids, ours: Path, tmp_path: Path) -> None:
    source = Source(path=ours, take="random:5")
    moved = tmp_path / "moved"
    ours.rename(moved)
    first = ids(Source(path=moved, take="random:5"))
    moved.rename(ours)
    assert ids(source) == first and len(set(first)) == 5
    assert ids(source, seed=1) != first
    assert ids(source, source)[:5] == first and ids(source, source)[5:] != first
    # The rows themselves: another release of ours must not choose others.
    assert ids(source) == ["o1", "o4", "o6", "o8", "o9"]


def test_sources_are_joined_in_order_and_drops_are_kept(cache: Path, ids, ours: Path, users: Path) -> None:
    sources = [Source(path=users), Source(path=ours, take="first:1")]
    assert ids(*sources) == ["u0", "u1", "u2", "u3", "u4", "o0"]
    mixture = read_mixture(sources, 0, cache)
    assert [(d.id, d.reason) for d in mixture.dropped_rows()] == [("bad", "no_turns")]
    assert (mixture.left, mixture.n_dropped) == (9, 1)


def test_a_weight_repeats_or_thins_what_was_taken(cache: Path, ids, ours: Path) -> None:
    rows = ids(Source(path=ours, take="first:4", weight=2.5))
    assert rows[:8] == ["o0", "o1", "o2", "o3"] * 2
    assert len(rows) == 10 and rows[8:] == sorted(set(rows[8:])) and set(rows[8:]) < {"o0", "o1", "o2", "o3"}
    quarter = ids(Source(path=ours, weight=0.25))
    assert len(quarter) == 3 and quarter == ids(Source(path=ours, weight=0.25)) == sorted(quarter)
    assert any(ids(Source(path=ours, weight=0.25), seed=seed) != quarter for seed in range(1, 4))
    assert read_mixture([Source(path=ours, weight=0.25)], 0, cache).left == 7
    assert read_mixture([Source(path=ours, take="first:4", weight=2.5)], 0, cache).left == 6
    for wrong in (0, -1, math.inf):
        with pytest.raises(ValueError, match="weight"):
            Source(path=ours, weight=wrong)


@given(n=st.integers(0, 60), weight=st.floats(0.01, 4), seed=st.integers(0, 5))
def test_every_row_comes_as_often_as_its_weight_says(n: int, weight: float, seed: int) -> None:
    rows, left = chosen_rows(Source(path=Path("x"), weight=weight), n, str(seed))
    times = np.bincount(rows, minlength=n)
    assert set(times) <= {int(weight), int(weight) + 1}
    assert times.sum() - int(weight) * n == math.ceil((weight - int(weight)) * n - 1e-9)
    assert left == sum(times == 0)


def drawn_by_version_0_1(source: Source, n_rows: int, seed: str) -> tuple[list[int], int]:
    """The rows and how many were left out, as they were drawn before mixing and building shared one grammar."""

    def drawn(n: int, wanted: int, seed: str) -> list[int]:
        return sorted(random.Random(seed).sample(range(n), wanted))

    which, _, number = source.take.partition(":") if source.take != "all" else ("first", "", "100%")
    n = math.ceil(float(number[:-1]) * n_rows / 100) if number.endswith("%") else int(number)
    rows = drawn(n_rows, n, seed) if which == "random" else list(range(n_rows))[:n]
    rows = list(range(n_rows - n, n_rows)) if which == "end" else rows
    whole = int(source.weight)
    more = math.ceil((source.weight - whole) * len(rows) - 1e-9)
    weighted = rows * whole + [rows[i] for i in drawn(len(rows), more, f"{seed}:weight")]
    return weighted, n_rows - (len(rows) if source.weight >= 1 else len(weighted))


@given(
    n=st.integers(0, 60),
    which=st.sampled_from(["all", "first", "end", "random"]),
    number=st.floats(0.01, 100).map(lambda share: f"{share:.2f}%") | st.integers(1, 60).map(str),
    weight=st.one_of(st.just(1.0), st.floats(0.01, 4), st.integers(1, 3)),
    seed=st.integers(0, 5),
)
def test_the_rows_are_those_that_version_0_1_drew(n: int, which: str, number: str, weight: float, seed: int) -> None:
    assume(which == "all" or number.endswith("%") or int(number) <= n)
    source = Source(path=Path("x"), take="all" if which == "all" else f"{which}:{number}", weight=weight)
    rows, left = chosen_rows(source, n, f"{seed}:0")
    assert (rows.tolist(), left) == drawn_by_version_0_1(source, n, f"{seed}:0")


@given(n=st.integers(1, 200), share=st.floats(0.01, 100), which=st.sampled_from(["first", "end", "random"]))
def test_a_share_is_rounded_up_and_lies_within_the_rows(n: int, share: float, which: str) -> None:
    source = Source(path=Path("x"), take=f"{which}:{share:.3f}%")
    rows = _taken_rows(source, n, "0")
    assert len(rows) == math.ceil(float(f"{share:.3f}") * n / 100) >= 1
    assert list(rows) == sorted(set(rows.tolist())) and rows[0] >= 0 and rows[-1] < n
    assert which != "first" or rows[0] == 0
    assert which != "end" or rows[-1] == n - 1


@pytest.mark.parametrize("take", ["some", "first:", "first:0", "first:101%", "random:1.5", "end:-1", "end:0", "end:0%"])
def test_a_wrong_take_is_refused(take: str, tmp_path: Path) -> None:  # end:0 kept everything
    with pytest.raises(ValueError, match="take"):
        Source(path=tmp_path, take=take)


def test_counts_and_caps_are_drawn_from_what_is_taken(cache: Path, ids, ours: Path) -> None:
    five = ids(Source(path=ours, take="first:8", count=5))
    assert len(five) == 5 and five == sorted(set(five)) and set(five) < {f"o{i}" for i in range(8)}
    assert ids(Source(path=ours, at_most=20)) == [f"o{i}" for i in range(10)]
    assert len(ids(Source(path=ours, at_most=3))) == 3 and ids(Source(path=ours, count=0)) == []
    assert read_mixture([Source(path=ours, take="first:8", count=5)], 0, cache).left == 5
    with pytest.raises(ValueError, match=r"count 9, but .*ours holds 8 rows that can be used"):
        ids(Source(path=ours, take="first:8", count=9))
    with pytest.raises(ValueError, match="give count or weight, not both"):
        Source(path=ours, count=1, weight=2)
    recorded = Source(path=ours, count=1)
    assert Source.model_validate(recorded.model_dump()) == recorded


def test_a_share_needs_a_total(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ours give a share: of how many rows, says total"):
        DataConfig(sources=(Source(path=ours, share=0.5),))
    (tmp_path / "mix.yaml").write_text(f"sources: [{{path: '{ours}', share: 0.5}}]")
    with pytest.raises(ValueError, match=r"ours give a share: of how many rows, says total"):
        load_sources(tmp_path / "mix.yaml")


def test_more_rows_than_there_are_is_an_error(ids, ours: Path) -> None:
    with pytest.raises(ValueError, match="10 usable rows"):
        ids(Source(path=ours, take="first:11"))


def test_yaml_mixtures_ours_and_llava(ids, ours: Path, users: Path, tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(f"sources:\n- {{path: '{ours}', take: 'first:2'}}\n- {{path: '{users}'}}\n")
    assert ids(*load_sources(path)) == ["o0", "o1", "u0", "u1", "u2", "u3", "u4"]
    path.write_text(f"datasets:\n- {{json_path: '{users}', sampling_strategy: 'end:1', weight: 2}}\n")
    assert ids(*load_sources(path)) == ["u4", "u4"]
    path.write_text(f"sources:\n- {{paths: '{users}'}}\n")
    with pytest.raises(ValueError, match="unknown key"):
        load_sources(path)


def test_the_brace_form_of_the_original(ids, users: Path, tmp_path: Path) -> None:
    (tmp_path / "more.json").write_text(users.read_text())
    rows = ids(*load_sources(tmp_path / "{users, more}.json"))
    assert rows == ["u0", "u1", "u2", "u3", "u4"] * 2
    users.rename(tmp_path / "{odd}.json")  # a file of that name is a file
    assert load_sources(tmp_path / "{odd}.json") == (Source(path=tmp_path / "{odd}.json"),)


def test_something_else_is_no_source(ids, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a data source"):
        ids(Source(path=tmp_path / "x.csv"))
    with pytest.raises(ValueError, match=r"no such file"):
        ids(Source(path=tmp_path / "x.json"))

"""The sweep: its table by hand, its choice within the bounds, and the file that select reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.curation.select.select import SelectConfig, select
from sicog.curation.select.sweep import SweepConfig, set_truth, sweep, sweep_scored
from sicog.curation.select.threshold import Threshold, agreement_of, threshold_at
from sicog.stages.storage import count_rows, read_json, write_dataset


def test_the_table_by_hand():
    found = sweep([0.9, 0.5, 0.7, 0.7], [1.0, 0.0, 1.0, 0.0], (0.3, 0.8))
    assert [(c.threshold, c.rows_kept, c.share_kept) for c in found.table] == [
        (0.5, 4, 1),
        (0.7, 3, 0.75),
        (0.9, 1, 0.25),
    ]
    assert [c.truth_kept for c in found.table] == pytest.approx([0.5, 2 / 3, 1.0])
    assert [c.truth_dropped for c in found.table] == [None, 0.0, pytest.approx(1 / 3)]
    assert found.best.threshold == 0.7 and found.within_bounds


def test_equal_truth_keeps_more_and_ties_may_leave_the_bounds():
    assert sweep([1, 2, 3, 4], [1, 1, 1, 1], (0.3, 0.7)).best.threshold == 3
    alike = sweep([1.0] * 10, [1, 0] * 5)
    assert alike.best.share_kept == 1 and not alike.within_bounds
    assert sweep([1.0, 0.5, 0.5, 0.5, 0.5], [0] * 5, (0.3, 0.7)).best.share_kept == 0.2  # 0.1 off, not 0.3


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.5, 0.8, 0.9]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).map(tuple),
)
def test_the_choice_is_that_of_trying_every_cut(rows, bounds):
    values, truths = [v for v, _ in rows], [t for _, t in rows]
    found = sweep(values, truths, bounds)
    tried = {}
    for cut in sorted(set(values)):
        kept = [t for v, t in rows if v >= cut]
        tried[cut] = (sum(kept) / len(kept), len(kept))
    assert [c.threshold for c in found.table] == sorted(tried)
    assert [(c.truth_kept, c.rows_kept) for c in found.table] == [(pytest.approx(m), n) for m, n in tried.values()]
    inside = [m for m, n in tried.values() if bounds[0] <= n / len(rows) <= bounds[1]]
    assert found.within_bounds == bool(inside)
    if inside:
        assert found.best.truth_kept == pytest.approx(max(inside))


def test_mistakes_are_sentences(tmp_path):
    with pytest.raises(ValueError, match="needs one value and one truth per row"):
        sweep([], [])
    with pytest.raises(ValueError, match="not a number"):
        sweep([0.5], [float("nan")])
    with pytest.raises(ValueError, match="keep_share must ascend"):
        SweepConfig(input=tmp_path, out_dir=tmp_path, keep_share=(0.7, 0.3))


def is_red(query, answer):
    return float("red" in answer)


def rows_of(make, n=10):
    """In row i the chosen answer agrees with i / 10 of two or five others, which are red; it is red from row 5 on."""
    return [
        make.scored_set(
            str(i),
            "reasoning",
            [
                ("cot", make.cot("red" if i >= 5 else "blue"), (1 + i / 10 * others) / (others + 1), 2 / 3),
                *[("direct", "red", -0.5, 1 / 3)] * others,
            ],
        )
        for i in range(n)
        for others in (2 if i % 2 else 5,)
    ]


def test_a_set_is_held_against_random_and_truest(make):
    found = set_truth(rows_of(make)[2], 0, 0.2, is_red, range(6))
    assert (found.value, found.selected, found.random, found.truest) == (0.2, 0.0, 5 / 6, 1.0)
    only = set_truth(rows_of(make)[2], 1, 0.2, is_red, range(1, 6))
    assert (only.selected, only.random, only.truest) == (1.0, 1.0, 1.0)


def test_select_reads_what_the_sweep_wrote(tmp_path, make):
    write_dataset(tmp_path / "dev", rows_of(make))
    config = SweepConfig(input=tmp_path / "dev", out_dir=tmp_path / "sweep")
    path = sweep_scored(config, is_red)
    found = read_json(path)
    assert (found["share_kept"], found["truth_kept"], found["truth_dropped"]) == (0.5, 1.0, 0.0)
    assert (
        found["threshold"] == pytest.approx(2 / 3, abs=1e-9)
        and found["threshold_k"] == 3
        and found["min_candidates"] == 3
    )
    assert found["truth_of"]["selected"] == 0.5 and found["truth_of"]["truest"] == 1.0 and found["rows"] == 10
    assert sweep_scored(config, is_red) == path
    select(SelectConfig(input=tmp_path / "dev", out_dir=tmp_path / "kept", threshold_file=path))
    assert count_rows(tmp_path / "kept") == 5


@pytest.mark.parametrize("by", ["score", "vote"])
@pytest.mark.parametrize("threshold_k", [3, 5])
def test_select_keeps_what_each_line_of_the_table_says(tmp_path, make, by, threshold_k):
    """Of rows with 2 to 7 candidates, at every threshold of the sweep, whatever it is stated for."""
    rows = []
    for i in range(24):
        k = 2 + i % 6
        marks = [("direct", f"a{j}", round(0.9 - i / 37 - j / 10, 6), round((1 + i % k) / k, 9)) for j in range(k)]
        rows.append(make.scored_set(str(i), "reasoning", marks))
    write_dataset(tmp_path / "dev", rows)
    options = {"by": by, "min_candidates": 2}
    swept = SweepConfig(input=tmp_path / "dev", out_dir=tmp_path / "sweep", threshold_k=threshold_k, **options)
    for n, cut in enumerate(read_json(sweep_scored(swept, is_red))["table"]):
        values = {"threshold": cut["threshold"], "threshold_k": threshold_k, **options}
        kept = select(SelectConfig(input=tmp_path / "dev", out_dir=tmp_path / f"kept-{n}", **values))
        assert count_rows(kept) == cut["rows_kept"]


def test_a_cut_of_votes_is_the_share_of_others_that_agree():
    """Two of three answers are equal: half of the others agree, whatever K the threshold is stated for."""
    assert agreement_of(2 / 3, 3) == 0.5 == agreement_of(round(2 / 3, 9), 3) == agreement_of(0.6, 5)
    assert threshold_at(0.5, 3) == pytest.approx(2 / 3, abs=1e-9) and agreement_of(threshold_at(0.5, 6), 6) == 0.5
    assert Threshold(0.85).agreement == 0.775 and Threshold(0.85, 6).agreement == 0.82


def test_rows_of_two_encoders_are_refused(tmp_path, make):
    rows = rows_of(make, 2)
    write_dataset(tmp_path / "dev", [rows[0], rows[1].model_copy(update={"encoder": "other"})])
    with pytest.raises(ValueError, match="one task and one encoder"):
        sweep_scored(SweepConfig(input=tmp_path / "dev", out_dir=tmp_path / "sweep"), is_red)


def test_damaged_rows_decide_nothing(tmp_path, make):
    write_dataset(tmp_path / "dev", rows_of(make))
    shard = tmp_path / "dev" / "shard-00000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join([lines[0], b'{"id": 1}\n', b"\xff" + lines[2], *lines[3:-1], lines[-1][:70]]))
    path = sweep_scored(SweepConfig(input=tmp_path / "dev", out_dir=tmp_path / "sweep"), is_red)
    manifest = read_json(path.parent / "manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (10, 7, {"unreadable_row": 3})
    assert read_json(path)["rows"] == 7

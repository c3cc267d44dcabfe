"""alarms.py: starvation, collapse, repetition, length and one answer for all are each said with their figure."""

import pytest

from sicog.records import Example, Turn
from sicog.runs.alarms import AlarmsConfig, Figures, WatchedRows, alarm_messages, alarms, folder_figures
from sicog.stages.storage import read_json, write_dataset, write_json

FINE = Figures(rows=50, share_kept=0.5, duplicates=0.1, words=20.0, answers=9, answer_share=0.2)


def kept(folder, answers, rows_in, source="reasoning", style="direct"):
    """What `select` would have kept: these answers, of `rows_in` rows."""
    rows = [
        Example(
            id=str(i),
            turns=(Turn(role="user", text=f"What is {i % 3}?"), Turn(role="assistant", text=text)),
            source=source,
            extra={"style": style},
        )
        for i, text in enumerate(answers)
    ]
    write_dataset(folder, rows)
    write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"rows_in": rows_in})
    return folder


def test_figures_of_kept_rows(tmp_path):
    found = folder_figures(kept(tmp_path / "a", ["Two.", "three", "three", "2", "a red box"], rows_in=10))
    # Rows 0 and 3 ask the same and say "two" in other words; no row repeats another's prompt and text.
    assert found == Figures(rows=5, share_kept=0.5, duplicates=0.0, words=7 / 5, answers=3, answer_share=2 / 5)
    twice = folder_figures(kept(tmp_path / "b", ["x", "y", "z", "X ", "y", "w"], rows_in=6, source="captioning"))
    assert twice.duplicates == pytest.approx(2 / 6) and twice.answer_share is None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, []),
        ({"rows": 3}, ["3 rows are kept, fewer than 10"]),
        ({"share_kept": 0.05}, ["5% of the rows are kept, less than 10%"]),
        ({"share_kept": 0.99}, ["99% of the rows are kept, more than 95%"]),
        ({"duplicates": 0.7}, ["70% of the rows repeat another"]),
        ({"words": 5.0}, ["answers have 5 words, 0.25 times"]),
        ({"words": 50.0}, ["answers have 50 words, 2.50 times"]),
        ({"answer_share": 0.8}, ["80% of the answers are the same"]),
    ],
)
def test_each_limit_raises_its_alarm(values, says):
    limits = WatchedRows(selected=("x",), min_rows=10)
    now = Figures(**{**FINE.__dict__, **values})
    found = list(alarm_messages(limits, now, FINE))
    assert len(found) == len(says) and all(text.startswith(start) for text, start in zip(found, says, strict=True))
    if "words" in values:  # in the first round there is nothing to compare with
        assert list(alarm_messages(limits, now, None)) == []


def test_an_alarm_stops_the_run_unless_it_shall_only_be_said(tmp_path, capfd):
    before = kept(tmp_path / "before", ["one two three"] * 3, rows_in=6)
    now = kept(tmp_path / "now", ["one"], rows_in=100)
    config = AlarmsConfig(out_dir=tmp_path / "out", watched={"answers": WatchedRows(selected=(before, now))})
    with pytest.raises(ValueError, match=r"stopped by 3 alarm\(s\): answers: 1% of the rows are kept"):
        alarms(config)
    assert not (tmp_path / "out" / "manifest.json").exists()
    capfd.readouterr()
    out = alarms(config.model_copy(update={"stop": False, "out_dir": tmp_path / "said"}))
    found = read_json(out / "alarms.json")
    assert len(found["alarms"]) == 3 and found["figures"]["answers"]["rows"] == 1
    assert "ALARM answers: 1% of the rows are kept" in capfd.readouterr().err

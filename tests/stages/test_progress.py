"""progress.py: a log says now and then how far a stage is, also where one block takes long."""

import time

import pytest

from sicog.config import Config
from sicog.records import Query
from sicog.stages import progress
from sicog.stages.progress import Pace
from sicog.stages.reader import FolderSource
from sicog.stages.runner import Stage, run_stage
from sicog.stages.storage import write_dataset


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_every_tenth_is_due_once(clock):
    pace = Pace(0, 40)
    assert [done for done in range(41) if pace.due(done)] == list(range(4, 41, 4))
    assert not Pace(7, 40).due(7)  # one that resumes there has written that line before


def test_where_a_tenth_takes_long_lines_come_at_growing_intervals(clock):
    pace, lines = Pace(0, 1_000_000), []
    for second in range(0, 7200):
        clock[0] = float(second)
        if pace.due(second):
            lines.append(second)
    assert lines[:6] == [30, 90, 210, 450, 930, 1530] and lines[-1] - lines[-2] == 600


def test_no_rows_at_all_are_no_division_by_zero(clock):
    assert not Pace(0, 0).due(0)


def test_a_log_hears_of_a_block_that_takes_long(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LOOK_FOR_LOG_S", 0.01)
    monkeypatch.setattr(progress, "_FIRST_S", 0.05)
    write_dataset(tmp_path / "in", [Query(id=str(i), task="reasoning", question="q") for i in range(3)])

    def slow(rows):
        time.sleep(0.4)
        return [[row] for row in rows]

    source, counted = FolderSource(tmp_path / "in", Query), iter(range(1, 1000))
    run_stage(
        Stage(
            step="sample",
            out_dir=tmp_path / "out",
            source=source,
            process=slow,
            inputs={},
            status=lambda: f"{next(counted)} candidates",
        ),
        Config(),
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if "sample: row 0/3, " in line]
    assert lines and lines[0].endswith(" candidates")

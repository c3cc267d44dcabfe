"""journal_progress.py: a log says now and then how far a stage is, also where one block takes long."""

import time

from sicog import progress
from sicog.config import Config
from sicog.records import Query
from sicog.stages import journal_progress
from sicog.stages.reader import FolderSource
from sicog.stages.runner import Stage, run_stage
from sicog.stages.storage import write_dataset


def test_a_log_hears_of_a_block_that_takes_long(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(journal_progress, "_LOOK_FOR_LOG_S", 0.01)
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

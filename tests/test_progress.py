"""progress.py: a bar on a terminal, and in a log a line now and then, both with counts, speed and remaining time."""

import io
import time
from pathlib import Path

import pytest

from sicog import progress
from sicog.console import console_on
from sicog.progress import Bar, Pace, quick_bar, with_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


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
    for total in (1_000_000, None):
        clock[0] = 0.0
        pace, lines = Pace(0, total), []
        for second in range(0, 7200):
            clock[0] = float(second)
            if pace.due(second):
                lines.append(second)
        assert lines[:6] == [30, 90, 210, 450, 930, 1530] and lines[-1] - lines[-2] == 600


def test_no_rows_at_all_are_no_division_by_zero(clock):
    assert not Pace(0, 0).due(0)
    bar = Bar("nothing", 0)
    bar.update(0)
    bar.close()


def test_a_terminal_shows_counts_speed_and_times(monkeypatch):
    shown = Terminal()
    monkeypatch.setenv("COLUMNS", "200")
    with Bar("mini [old]", 4000, unit="image", console=console_on(shown, file=shown)) as bar:
        for _ in range(20):
            bar.add(200)
        bar.update(4000, note="loss [/b] 0.1")
    last = shown.getvalue().split("\r")[-1]
    assert "mini [old]" in last and "4000/4000" in last and " images/s, loss [/b] 0.1" in last
    assert last.count("0:00:0") == 2  # so far, and still to come


def test_the_last_rows_are_shown_even_where_they_come_at_once():
    shown = Terminal()
    with Bar("mini", 7, console=console_on(shown, file=shown)) as bar:
        for _ in range(7):
            bar.add(1)
    assert "7/7" in shown.getvalue() and " rows/s" in shown.getvalue()


def test_a_log_has_counts_speed_and_remaining_time(clock, capsys):
    bar = Bar("sample [old]", 100, done=10)
    clock[0] = 10.0
    bar.update(10)
    bar.update(20)
    clock[0] = 20.0
    bar.update(30, speed="7 candidates/s", note="loss 0.1")
    assert capsys.readouterr().err.splitlines() == [
        "  sample [old]: row 20/100, 1.0 rows/s, 0:01:20 left",
        "  sample [old]: row 30/100, 7 candidates/s, loss 0.1, 0:01:10 left",
    ]


def test_quick_work_leaves_no_line_in_a_log(clock, capsys):
    bar = quick_bar("reading [old].json")
    for second in range(0, 200):
        clock[0] = float(second)
        bar.add(1000)
    lines = capsys.readouterr().err.splitlines()
    assert (
        lines[0].startswith("  reading [old].json: ") and lines[0].endswith(" rows, 1,016.7 rows/s") and len(lines) == 2
    )
    assert list(with_progress(range(1000), "quick")) == list(range(1000)) and not capsys.readouterr().err


def test_a_bar_that_is_not_to_stay_is_taken_away():
    for stays in (True, False):
        shown = Terminal()
        with Bar("indexing", 3, stays=stays, console=console_on(shown, file=shown)) as bar:
            bar.add(3)
        assert shown.getvalue().endswith("\x1b[1A\x1b[2K") is not stays


def test_a_log_hears_nothing_of_a_bar_that_is_closed(capsys):
    with Bar("sample", 3):
        pass
    assert not capsys.readouterr().err


def test_one_file_draws_all_bars():
    package = progress.__file__.removesuffix("progress.py")
    drawing = ("rich.progress", "rich.status", "tqdm import", "import tqdm")
    found = [p.name for p in sorted(Path(package).rglob("*.py")) if any(word in p.read_text() for word in drawing)]
    assert found == ["progress.py"]

"""Consoles: lines fit a terminal, and are left whole in a log."""

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.table import Table

from sicog.console import console_on, stderr_console, stdout_console

LONG = "the old output is now " + "/a/long/path" * 20
PACKAGE = Path(__file__).parents[1] / "sicog"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_holds_every_sentence_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    stdout_console().print(LONG, highlight=False)
    stderr_console().print(LONG, highlight=False)
    assert capsys.readouterr() == (f"{LONG}\n", f"{LONG}\n")


def test_colours_that_are_forced_do_not_wrap_a_log(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    log = io.StringIO()
    console_on(log, file=log).print(LONG, style="bold", highlight=False)
    assert LONG in log.getvalue()


def test_a_terminal_sets_the_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    shown = Terminal()
    console_on(shown, file=shown).print(LONG, highlight=False)
    assert max(map(len, shown.getvalue().splitlines())) <= 40


def test_a_table_in_a_log_is_as_wide_as_its_cells():
    log = io.StringIO()
    table = Table("step", "path", title=LONG, title_justify="left")
    table.add_row("sample", LONG)
    console_on(log, file=log).print(table)
    lines = log.getvalue().splitlines()
    assert sum(LONG in line for line in lines) == 2 and max(map(len, lines)) < 2 * len(LONG)


def test_what_users_write_is_printed_as_they_wrote_it(capsys):
    """`:100:` in a file's name or a row is no emoji."""
    stdout_console().print("a:100:.png")
    assert capsys.readouterr().out == "a:100:.png\n"


def test_one_file_makes_all_consoles():
    made = [p.name for p in sorted(PACKAGE.rglob("*.py")) if re.search(r"\bConsole\(", p.read_text())]
    assert made == ["console.py"]


def test_a_mistake_is_one_line(tmp_path):
    long = tmp_path / ("x" * 200)
    done = subprocess.run(
        [sys.executable, "-m", "sicog.cli", "select", str(long)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and str(long) in done.stderr and len(done.stderr.splitlines()) == 1

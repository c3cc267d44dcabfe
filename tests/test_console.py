"""Consoles: lines fit a terminal, and are left whole in a log; users' words are printed as they are."""

import ast
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.live import Live
from rich.table import Table
from typer.testing import CliRunner

from sicog import cli
from sicog.console import console_on, say, say_finished, stderr_console, stdout_console, styled_text
from sicog.records import Query
from sicog.stages.storage import write_dataset

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


HOSTILE = ("runs/[old]/x", "[/b]", "[bold]", "a:100:.png", "[link=x]", "\\[/]", "ends in \\")


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("word", HOSTILE)
def test_what_users_write_is_printed_as_they_wrote_it(word, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    stream = Terminal() if terminal else io.StringIO()
    console = console_on(stream, file=stream)
    console.print(word)
    console.print(word, style="bold")
    console.print(f"say {word}", soft_wrap=True)
    console.print(styled_text((word, "dim"), f": {word}"))
    table = Table(word, title=word, caption=word)
    table.add_column(word, justify="right")
    table.add_row(word, styled_text((word, "red"), word))
    console.print(table)
    with Live(table, console=console, auto_refresh=False):
        console.print(word)
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", stream.getvalue())
    assert shown.count(word) >= 5 + 2 * 7 + 1


def test_say_and_its_like_print_one_line_as_it_is(capsys):
    say("runs/[old]/x is [/b] " + LONG, style="yellow")
    say_finished("select", Path("runs/[old]"))
    assert capsys.readouterr().err == (
        f"  runs/[old]/x is [/b] {LONG}\n  select: runs/[old] is finished already, nothing to do\n"
    )


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A folder of a hostile name, with rows whose ids are hostile too."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "[old]"
    write_dataset(folder / "in", [Query(id=f"[/b]{k}", task="captioning", images=("[b].png",)) for k in range(3)])
    Image.new("RGB", (9, 9)).save(folder / "[b].png")
    return folder


def printed(*arguments):
    done = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    return done, " ".join((done.output + str(done.exception or "")).split())


def test_commands_print_the_names_of_folders_and_rows(old):
    done, said = printed("data", "check", "[old]/in", "--image-folder", "[old]/missing")
    assert "image_folder [old]/missing does not exist" in said and done.exit_code
    done, said = printed("data", "check", "[old]/in", "--image-folder", "[old]")
    assert "[old]/in" in said and "3 of 3 rows can be used" in said
    (old / "[b].png").unlink()
    done, said = printed("data", "check", "[old]/in", "--image-folder", "[old]")
    assert "[/b]0: " in said and "[b].png" in said, said
    done, said = printed("select", "input=[old]/no", "out_dir=[old]/[/out]", "threshold=0.5", "--dry-run")
    assert "[old]/no does not exist" in said
    done, said = printed("status", "[old]")
    assert "[old] is not a run of a recipe" in said


def test_a_run_in_such_a_folder_is_shown_as_it_is_called(old):
    Path("[r].yaml").write_text(
        "run_dir: '[old]/run'\nsteps:\n  world:\n    run: mini-data\n    config: {align: 1, sft: 1, "
        "warmup_captions: 1, warmup_reasoning: 1, unlabelled: 1, dev: 1, test: 1}\n"
    )
    for arguments in (["run", "[r].yaml", "--dry-run"], ["run", "[r].yaml"], ["status", "[old]/run"]):
        done, said = printed(*arguments)
        assert done.exit_code == 0 and "[old]/run" in said, said


@pytest.mark.parametrize("words", [("--[/b]",), ("select", "--[/b]"), ("report", "x", "[/c]")])
def test_what_typer_refuses_is_printed_as_it_was_written(words):
    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code == 2 and words[-1] in done.output


def test_a_mistake_with_brackets_is_printed_whole(tmp_path):
    for word in ("[/b]", "[old]", "a\\"):
        command = [sys.executable, "-m", "sicog.cli", "select", word]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stderr.startswith(f"sicog: {word}: no such config file"), done.stderr


MARKUP = ("rich.markup", "rich.status", "rich.prompt")
OWN_CONSOLE = {"print", "get_console", "inspect", "print_json"}
TAG = re.compile(r"\[/?(bold|dim|italic|red|green|yellow|cyan)[^\]]*\]|\[/\]")
ALLOWED = ("console.py", "progress.py")


def markup_in(path):
    """What of a module would make Rich read words as markup, or prints tags that nothing reads."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=name, names=names):
                found = name in MARKUP or (name == "rich" and OWN_CONSOLE & {alias.name for alias in names})
            case ast.Attribute(attr="from_markup"):
                found = True
            case ast.Attribute(attr="status" | "input", value=owner):
                found = "console" in ast.unparse(owner)
            case ast.keyword(arg="markup" | "emoji"):
                found = path.name not in ALLOWED
            case ast.Constant(value=str(text)):
                found = TAG.search(text)
            case _:
                found = False
        if found:
            yield f"{path}:{node.lineno}: use console_on(), say(), style= or styled_text()"


def test_no_module_prints_markup():
    assert not [found for path in sorted(PACKAGE.rglob("*.py")) for found in markup_in(path)]


@pytest.mark.parametrize(
    "code",
    [
        "from rich.markup import escape",
        "from rich import print",
        "console.print(path, markup=True)",
        "Text.from_markup(name)",
        "stderr_console().status(name)",
        "console.print(f'[bold]{name}[/]')",
        "TextColumn(name, markup=True)",
    ],
)
def test_a_new_place_is_found(tmp_path, code):
    (tmp_path / "new.py").write_text(code)
    assert list(markup_in(tmp_path / "new.py"))


def test_one_file_makes_all_consoles():
    made = [p.name for p in sorted(PACKAGE.rglob("*.py")) if re.search(r"\bConsole\(", p.read_text())]
    assert made == ["console.py"]


def test_a_mistake_is_one_line(tmp_path):
    long = tmp_path / ("x" * 200)
    done = subprocess.run(
        [sys.executable, "-m", "sicog.cli", "select", str(long)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and str(long) in done.stderr and len(done.stderr.splitlines()) == 1

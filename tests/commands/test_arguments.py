"""arguments.py: what commands take without a config is checked as in one."""

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from sicog import cli
from sicog.commands.arguments import check_arguments


def test_paths_of_commands_and_of_groups(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    app, group, seen = typer.Typer(), typer.Typer(), []

    @app.command()
    def one(
        files: Annotated[list[Path], typer.Argument()],
        out: Annotated[Path | None, typer.Option(help="where to")] = None,
        text: Annotated[str, typer.Option()] = "",
    ) -> None:
        """What it does."""
        seen.append((files, out, text))

    @group.command()
    def two(out: Annotated[Path, typer.Option()] = Path("here")) -> None:
        seen.append(out)

    app.add_typer(group, name="group")
    check_arguments(app)
    assert CliRunner().invoke(app, ["one", "~/a", "b", "--out=~/c", "--text=~/d"]).exit_code == 0
    assert CliRunner().invoke(app, ["group", "two", "--out=~/e"]).exit_code == 0
    assert CliRunner().invoke(app, ["group", "two"]).exit_code == 0
    assert seen == [([tmp_path / "a", Path("b")], tmp_path / "c", "~/d"), tmp_path / "e", Path("here")]
    assert "What it does." in CliRunner().invoke(app, ["one", "--help"]).output


@pytest.mark.parametrize("command", [["report", "~/runs"], ["results", "~/runs"], ["lab", "gap", "--run=~/runs"]])
def test_the_commands_of_sicog_look_there(tmp_path, monkeypatch, command):
    monkeypatch.setenv("HOME", str(tmp_path))
    said = CliRunner().invoke(cli.app, command)
    assert said.exit_code and str(tmp_path / "runs") in str(said.exception)


@pytest.mark.parametrize("command", [["show-corruptions", "a.png", "--out=b.png"], ["ask", "model", "a.png"]])
def test_an_integer_that_nothing_can_be_done_with_is_one_clear_sentence(command):
    said = CliRunner().invoke(cli.app, [*command, f"--seed={2**63}"])
    assert isinstance(said.exception, ValueError) and "seed: must be a number of at most 64 bits" in str(said.exception)

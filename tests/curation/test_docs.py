"""The commands of docs/curation.md about encoders, as dry runs, and its table against the declared settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sicog.cli import app
from sicog.curation.encoders import presets

PAGE = (Path(__file__).parents[2] / "docs" / "curation.md").read_text()
COMMANDS = [
    line.split(" #")[0]
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("sicog score")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*shlex.split(command)[1:], "--dry-run"])
    assert done.exit_code == 0 and "encoder" in done.output
    assert not list(tmp_path.iterdir())


def test_the_table_names_every_declared_encoder_with_its_limits():
    for name, row in presets().items():
        (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
        limits = row.max_tokens.values() if isinstance(row.max_tokens, dict) else [row.max_tokens]
        assert all(str(limit) in line for limit in limits)
        assert (row.dtype == "bfloat16") == ("bfloat16" in line) and bool(row.not_here) == ("no:" in line)
        assert ("its own code" in line) == row.own_code

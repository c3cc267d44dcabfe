"""Every command of docs/evaluation.md, as a dry run; the kit's own are run by `make test-eval`."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sicog.cli import app
from sicog.evaluation.suite import Suite

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "evaluation.md").read_text()
LINES = [
    line.split("#")[0].strip() for b in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in b.splitlines()
]
EVALS = [line for line in LINES if line.startswith("sicog eval")]


def test_these_are_all():
    others = {" ".join(line.split()[:2]) for line in LINES if line not in EVALS}
    assert others == {"make eval-env", "sicog results"}  # test_real_kit.py; test_results.py
    assert len(EVALS) == 3


@pytest.mark.parametrize("line", EVALS)
def test_a_command(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*shlex.split(line)[1:], "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "suite: " in done.output and not list(tmp_path.iterdir())


def test_the_suite_that_is_shown():
    import yaml

    shown = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert [b.scored_as for b in Suite.model_validate(yaml.safe_load(shown[1])).benchmarks] == ["pope", "local"]

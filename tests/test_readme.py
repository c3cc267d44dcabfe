"""Every command of the README: scripts and verbs are run as they stand there, as a dry run from an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in re.sub(r"\\\n\s*", "", block).splitlines() if line and line[0] != "#"]
DRY = [line for line in LINES if ".sh" in line or line.startswith(("sicog run", "sicog mini-data"))]


def test_the_readme_shows_what_is_tested_here_or_by_name():
    others = [line.split("#")[0].strip() for line in LINES if line not in DRY]
    # `make` lines are what CI runs; `ask` is run in tests/generation/test_ask.py, `report` in tests/test_recipe.py.
    assert {line.split()[0] + " " + line.split()[1] for line in others} <= {
        "make mini",
        "make test",
        "sicog ask",
        "sicog report",
    }
    assert len(DRY) >= 11


@pytest.mark.parametrize("line", DRY)
def test_a_command_of_the_readme(tmp_path, line):
    line = re.sub(r"(\S+\.sh)", rf"{ROOT}/\1", line).replace("recipes/", f"{ROOT}/recipes/")
    line += "" if "--dry-run" in line else " --dry-run"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert ":" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_tree_names_what_exists():
    tree = README.split("## The tree")[1]
    for name in re.findall(r"\b([a-z_]+\.py)\b", tree):
        assert (ROOT / "sicog" / name).is_file(), name
    for name in re.findall(r"\b([a-z_]+)/", tree):
        assert (ROOT / name).is_dir() or (ROOT / "sicog" / name).is_dir(), name


def test_no_path_of_a_machine_and_no_registry_is_in_the_project():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    hosts = re.compile(
        "|".join(["pypi" + r"\.org", "files\\.python" + "hosted", "/home" + "/", "/root" + "/", "/work" + "/"])
    )
    for name in tracked.split("\0"):
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".sh", ".yaml", ".toml", ".txt", ""):
            found = hosts.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{name}: {found.group()}"

"""The README: its commands are run by continuous integration, its Python here, and what it names exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

from warm_sicog import warm_sicog

from sicog.mini.write_world import MiniDataConfig, write_mini_data
from sicog.records import ScoredSet
from sicog.stages.storage import read_records

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line]


def test_the_commands_are_those_that_continuous_integration_runs():
    run = (ROOT / ".ci" / "run").read_text()
    assert LINES == ["make mini QUICK=1", "make mini", "make test", ". .venv/bin/activate"]
    assert "make mini QUICK=1" in run and "make check" in run  # `check` is lint and `test`


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def bash(text, folder, **variables):
    path = os.pathsep.join([str(warm_sicog().parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    text = re.sub(r"([\w/-]+\.sh)", rf"{ROOT}/\1", text).replace("recipes/", f"{ROOT}/recipes/")
    environment = {**os.environ, "PATH": path, **variables}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, capture_output=True, text=True, env=environment
    )


def test_the_python_runs_as_written(tiny_dir, tmp_path, monkeypatch):
    counts = {"align": 1, "sft": 1, "warmup_captions": 1, "warmup_reasoning": 1, "unlabelled": 1, "dev": 3, "test": 1}
    write_mini_data(MiniDataConfig(**counts), tmp_path / "runs" / "mini" / "data")
    (tmp_path / "runs" / "mini" / "next").symlink_to(tiny_dir)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    small = block.replace("max_new_tokens=50", "max_new_tokens=2")
    exec(small.replace('task="captioning"', 'task="captioning", max_new_tokens=2'), {})
    rows = list(read_records(tmp_path / "runs" / "scored", ScoredSet))
    assert len(rows) == 3 and all(len(row.candidates) == 3 for row in rows)


def test_the_scripts_of_the_table_exist():
    names = {path.name for path in ROOT.glob("*/**/*.sh")}
    assert set(re.findall(r"`([\w-]+\.sh)`", README)) <= names


def test_the_tree_names_what_exists():
    tree = README.split("## The tree")[1]
    for name in re.findall(r"\b([a-z_]+\.py)\b", tree):
        assert (ROOT / "sicog" / name).is_file(), name
    for name in re.findall(r"\b([a-z_]+)/", tree):
        folders = (ROOT, ROOT / "sicog", ROOT / "sicog" / "curation")
        assert any((folder / name).is_dir() for folder in folders), name
    packages = {path.parent.name for path in (ROOT / "sicog").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"\b([a-z_]+)/", tree))


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

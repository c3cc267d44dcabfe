"""`launcher.jobs`: steps that do not wait for each other run at once, and a failing one loses nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sicog.runs.launchers.side_by_side import log_file
from sicog.runs.run import run
from sicog.runs.states import read_state
from sicog.runs.status import status_of

COUNTS = "align: 2, sft: 1, warmup_captions: 1, warmup_reasoning: 2, unlabelled: 1, dev: 1, test: 1"
RECIPE = """
run_dir: {folder}/run
launcher: {{jobs: 2}}
steps:
  one: {{run: mini-data, config: {{{counts}}}}}
  two: {{run: mini-data, config: {{{counts}, seed: 2}}}}
  rows: {{run: annotate, config: {{task: reasoning, input: "${{one}}/warmup_reasoning.jsonl"}}}}
  broken: {{run: annotate, config: {{task: reasoning, input: "${{one}}/{file}"}}}}
  after: {{run: build, config: {{sources: [{{name: broken, path: "${{broken}}/chain"}}]}}}}
"""


def written(folder: Path, file: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(RECIPE.format(folder=folder, counts=COUNTS, file=file))
    return path


@pytest.mark.slow
def test_what_fails_stops_what_needs_it_and_nothing_else(tmp_path, capfd):
    with pytest.raises(ValueError, match=r"step 'broken' failed: .*missing\.jsonl.* \(its output: .*broken\.log\)"):
        run(written(tmp_path, "missing.jsonl"))
    standing = {line.step.name: line.standing for line in status_of(tmp_path / "run")}
    assert standing.pop("rows") in ("done", "waiting")  # whether it had begun when the other failed
    assert standing == {"one": "done", "two": "done", "broken": "failed", "after": "waiting"}
    began = {name: read_state(tmp_path / "run", name).since for name in ("one", "two", "broken")}
    said = capfd.readouterr().err
    assert said.index("[2/5] two: mini-data") < said.index("[1/5] one: done after")  # side by side
    assert "images per split" in log_file(status_of(tmp_path / "run")[0].step).read_text()
    run(written(tmp_path, "warmup_reasoning.jsonl"))
    assert {line.standing for line in status_of(tmp_path / "run")} == {"done"}
    again = {name: read_state(tmp_path / "run", name).since for name in ("one", "two")}
    assert again == {name: began[name] for name in again}
    assert "[2/5] two: done" in capfd.readouterr().err


@pytest.mark.slow
def test_what_is_done_of_an_older_config_is_not_taken_for_done(tmp_path):
    path = written(tmp_path, "warmup_reasoning.jsonl")
    run(path)
    run(path, ["steps.one.config.seed=5"])
    assert {line.standing for line in status_of(tmp_path / "run")} == {"done"}
    since = {line.step.name: read_state(tmp_path / "run", line.step.name).since for line in status_of(tmp_path / "run")}
    assert since["one"] < since["rows"] and since["one"] < since["broken"] < since["after"]


@pytest.mark.slow
def test_the_same_bytes_as_one_after_the_other(tmp_path):
    path = written(tmp_path, "warmup_reasoning.jsonl")
    run(path)
    run(path, ["launcher.jobs=1", f"run_dir={tmp_path}/single"])
    files = sorted(
        p.relative_to(tmp_path / "run") for p in (tmp_path / "run").rglob("*.json*") if p.parent.name != ".steps"
    )
    files = [file for file in files if file.name not in ("run.json", "recipe.json")]
    assert len(files) > 10
    assert all((tmp_path / "run" / f).read_bytes() == (tmp_path / "single" / f).read_bytes() for f in files)


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_at_work(tmp_path):
    counts = COUNTS.replace("unlabelled: 1", "unlabelled: 20000")
    path = tmp_path / "r.yaml"
    steps = "".join(
        f"  {name}: {{run: mini-data, config: {{{counts}, seed: {k}}}}}\n" for k, name in enumerate(("a", "b"))
    )
    path.write_text(f"run_dir: {tmp_path}/run\nlauncher: {{jobs: 2}}\nsteps:\n{steps}")
    command = [sys.executable, "-m", "sicog", "run", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        wait_for(lambda: [read_state(tmp_path / "run", name) for name in "ab"].count(None) == 0)
        assert [line.standing for line in status_of(tmp_path / "run")] == ["running", "running"]
        killed.kill()
    wait_for(lambda: [line.standing for line in status_of(tmp_path / "run")] == ["stopped", "stopped"])


def wait_for(happens, seconds=60.0):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_jobs_are_of_this_machine(tmp_path):
    with pytest.raises(ValueError, match=r"jobs: 2 works only with on: local, not on: slurm"):
        run(written(tmp_path, "x"), ["launcher.on=slurm"])

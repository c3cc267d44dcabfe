"""The whole method end to end, as `make mini QUICK=1` runs it but on fewer rows: it ends with results, a second run
skips all, and a run killed again and again gives the same records, weights and metrics."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_sicog import warm_sicog

from sicog.stages.storage import read_json

ROOT = Path(__file__).parents[1]
RECIPE = """
extends: {root}/recipes/mini-quick.yaml
run_dir: {run_dir}
steps:
  data:
    config: {{align: 96, sft: 48, warmup_captions: 32, warmup_reasoning: 32, unlabelled: 24, dev: 16, test: 12}}
"""
# What differs from run to run without being a result: where it lay, how fast it was, event files with their times, and
# the teacher's answers in the order in which they came.
NOT_RESULTS = {"run.json", "recipe.json", "speed.jsonl", "times.js", "answers.sqlite"}


def write(folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(root=ROOT, run_dir=folder / name))
    return path


def start(recipe: Path, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "sicog", "run", str(recipe)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True, **options)


def sicog(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([warm_sicog(), *map(str, arguments)], capture_output=True, text=True, timeout=200)


def results(run_dir: Path) -> dict[str, bytes]:
    """Every file that is a result, by its name under the run's folder."""
    files = (p for p in run_dir.rglob("*") if p.is_file() and p.name not in NOT_RESULTS)
    kept = {p.relative_to(run_dir): p for p in files}
    return {str(n): p.read_bytes() for n, p in kept.items() if not {"tensorboard", ".steps"} & set(n.parts)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, float]:
    """A finished run, and the seconds it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    begin = time.monotonic()
    done = start(write(folder, "run"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = done.communicate(timeout=900)[0]
    assert done.returncode == 0, output
    assert "report.html" in output
    return folder / "run", time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_ends_with_results_and_a_page(undisturbed):
    run_dir, _ = undisturbed
    for name in ("base", "next", "control"):
        metrics = read_json(run_dir / f"eval-{name}" / "metrics.json")
        assert metrics["questions"]["n"] == 36 and metrics["captions"]["n"] == 12
        assert 0 <= metrics["questions"]["accuracy"]["value"] <= 1
    for step in ("captions-1", "answers-2", "captions-scored", "answers-scored", "captions-merged", "answers-selected"):
        manifest = read_json(run_dir / step / "manifest.json")
        counted = manifest["rows_kept"] + sum(manifest["dropped"].values()) + sum(manifest["failed"].values())
        assert manifest["rows_in"] == counted, step
        assert (run_dir / step / "run.json").is_file()
    page = (run_dir / "report" / "report.html").read_text()
    assert 'src="http' not in page
    assert "held-out" in page


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_second_run_skips_all_in_seconds(undisturbed):
    run_dir, _ = undisturbed
    before = results(run_dir)
    begin = time.monotonic()
    done = start(run_dir.parent / "run.yaml", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = done.communicate(timeout=120)[0]
    assert done.returncode == 0 and output.count(": done") == len(read_json(run_dir / "recipe.json"))
    assert time.monotonic() - begin < 30
    planned = sicog("run", run_dir.parent / "run.yaml", "--dry-run")  # of what is finished, too
    assert planned.returncode == 0, planned.stderr
    assert results(run_dir) == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ask_and_report_as_the_readme_shows_them(undisturbed):
    run_dir, _ = undisturbed
    image = next((run_dir / "data" / "images").rglob("*.png"))
    options = ["--style", "cot", "--samples", "5"]
    asked = sicog("ask", run_dir / "warmup-1", image, "How many circles are there?", *options)
    assert asked.returncode == 0, asked.stderr
    assert "of 5" in asked.stdout
    reported = sicog("report", run_dir)
    assert reported.returncode == 0 and "question accuracy" in reported.stdout + reported.stderr


LAB = """
extends: {root}/recipes/lab/arms.yaml
inputs: {{run: {{path: {run}}}}}
run_dir: {out}
defaults: train.yaml
seeds: [1]
updates: {{pretrain: 1, sft: 1}}
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_arm_of_the_lab_trains_on_the_runs_candidates_and_goes_on_after_a_kill(undisturbed, tmp_path):
    run_dir, _ = undisturbed
    arms, lab = tmp_path / "arms.yaml", tmp_path / "lab"
    arms.write_text(LAB.format(root=ROOT, run=run_dir, out=lab))
    (tmp_path / "train.yaml").write_text(
        f"{{extends: {ROOT}/recipes/mini-train.yaml, global_batch: 4, device_batch: 4}}"
    )
    before = results(run_dir)
    command = [sys.executable, "-m", "sicog", "lab", "run", str(arms), "--only", "control"]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 200
        while not (lab / ".steps" / "full-1-sft.json").is_file():
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    # A scorer is tried against the same arm, which goes on where it was killed.
    tried = sicog("lab", "score", ROOT / "examples" / "new_scorer.py", "--run", run_dir, "--train", "--lab", arms)
    assert tried.returncode == 0, tried.stderr
    assert "full-1-pretrain: done" in tried.stderr and "full-1-sft: train" in tried.stderr
    assert "new-scorer against full" in tried.stderr
    found = read_json(lab / "scorers" / "new-scorer" / "lab.json")["arms"]
    # As many rows of the input; `full` makes two examples of an answer whose chain was kept.
    assert 0 < found["new-scorer"]["rows"] <= found["full"]["rows"]
    assert read_json(lab / "new-scorer-1-pretrain" / "run.json")["config"]["max_steps"] == 1
    assert results(run_dir) == before  # the lab only reads it


# One kill in each kind of step, some seconds after it began (at its start where it may be over sooner).
KILLED_IN = {
    "data": 0.3,
    "align": 4,
    "warmup-captions": 1,
    "warmup-1": 3,
    "dev-answers-1": 3,
    "captions-1": 3,
    "answers-scored": 0.3,
    "captions-scored": 0.2,
    "captions-merged": 0,
    "answers-gap": 0,
    "curated": 0,
    "next": 3,
    "eval-next": 1,
    "report": 0,
}


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_killed_in_every_kind_of_step_it_ends_with_the_same_bytes(undisturbed, tmp_path):
    run_dir, _ = undisturbed
    recipe, states = write(tmp_path, "run"), tmp_path / "run" / ".steps"
    for step, seconds in KILLED_IN.items():
        child = start(recipe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not (states / f"{step}.json").is_file() and time.monotonic() < deadline:
            assert child.poll() is None, f"the run ended before {step}"
            time.sleep(0.01)
        time.sleep(seconds)
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, f"the run was over before it was killed in {step}"
    done = start(recipe, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = done.communicate(timeout=900)[0]
    assert done.returncode == 0, output
    expected, found = results(run_dir), results(tmp_path / "run")
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []

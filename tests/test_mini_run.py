"""The whole method end to end, as `make mini QUICK=1` runs it but on fewer rows: it ends with results, a second run
skips all, and a run killed again and again gives the same records, weights and metrics.

Two rounds go on from its warm-up models and are killed on the way: the second round samples from the model of the
first, candidates are pooled, and the status is right at any time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from warm_sicog import warm_sicog

from sicog.records import Example, ScoredSet
from sicog.stages.storage import read_json, read_records

ROOT = Path(__file__).parents[1]
RECIPE = """
extends: {root}/recipes/{name}.yaml
run_dir: {run_dir}
steps:
  data:
    config: {{align: 48, sft: 24, warmup_captions: 32, warmup_reasoning: 32, unlabelled: 12, dev: 6, test: 6}}
  warmup-1: {{config: {{max_steps: 8}}}}
  warmup-2: {{config: {{max_steps: 8}}}}
"""
START = ("data", "parts", "align", "base", "warmup-captions", "warmup-reasoning", "warmup-1", "warmup-2")
# What differs from run to run without being a result: where it lay, how fast it was, event files with their times, and
# the teacher's answers in the order in which they came.
NOT_RESULTS = {"run.json", "recipe.json", "speed.jsonl", "times.js", "answers.sqlite"}


def write(folder: Path, name: str = "mini-quick") -> Path:
    """Write a recipe whose run lies in `folder/run`."""
    path = folder / "run.yaml"
    path.write_text(RECIPE.format(root=ROOT, run_dir=folder / "run", name=name))
    return path


def start(recipe: Path, *command) -> subprocess.Popen:
    """Run a recipe in a session of its own, by the real command if no other is given."""
    command = [*(command or (sys.executable, "-m", "sicog", "run")), recipe]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **streams)


@contextmanager
def killed_in(child: subprocess.Popen, state: Path, seconds: float = 0):
    """Kill a run with all its processes, some seconds after the step with this state file began."""
    try:
        deadline = time.monotonic() + 300
        while not state.is_file():
            assert child.poll() is None and time.monotonic() < deadline, f"the run ended before {state}"
            time.sleep(0.01)
        time.sleep(seconds)
        yield
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()  # until all of its processes are gone
    assert child.returncode == -signal.SIGKILL, f"the run was over before it was killed in {state}"


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
    done = start(write(folder))
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
        assert metrics["questions"]["n"] == 18 and metrics["captions"]["n"] == 6
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
    done = start(run_dir.parent / "run.yaml")
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
def test_an_arm_of_the_lab_trains_on_the_runs_candidates_and_resumes_after_a_kill(undisturbed, tmp_path):
    run_dir, _ = undisturbed
    arms, lab = tmp_path / "arms.yaml", tmp_path / "lab"
    arms.write_text(LAB.format(root=ROOT, run=run_dir, out=lab))
    (tmp_path / "train.yaml").write_text(
        f"{{extends: {ROOT}/recipes/mini-train.yaml, global_batch: 4, device_batch: 4}}"
    )
    before = results(run_dir)
    killed = start(arms, warm_sicog(), "lab", "run", "--only", "control")
    with killed_in(killed, lab / ".steps" / "full-1-sft.json"):
        pass
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
    recipe, states = write(tmp_path), tmp_path / "run" / ".steps"
    for step, seconds in KILLED_IN.items():
        with killed_in(start(recipe), states / f"{step}.json", seconds):
            pass
    done = start(recipe)
    output = done.communicate(timeout=900)[0]
    assert done.returncode == 0, output
    expected, found = results(run_dir), results(tmp_path / "run")
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []


def status(run_dir) -> tuple[int, str]:
    asked = sicog("status", run_dir)
    return asked.returncode, asked.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_rounds_go_on_from_a_run_s_start_and_after_a_kill(undisturbed, tmp_path):
    first, _ = undisturbed
    recipe, run = write(tmp_path, "mini-rounds-quick"), tmp_path / "run"
    (run / ".steps").mkdir(parents=True)
    for step in START:
        shutil.copytree(first / step, run / step)
        shutil.copy(first / ".steps" / f"{step}.json", run / ".steps")
    with killed_in(start(recipe, warm_sicog(), "run"), run / ".steps" / "round-1" / "next-pretrain.json"):
        code, table = status(run)
        assert code == 0 and "running" in table, table  # it only looks; the run goes on
    code, table = status(run)
    assert code == 1 and "stopped" in table and "no process is running" in table
    before = (run / "round-1" / "curated" / "shard-00000.jsonl").read_bytes()
    again = sicog("run", recipe)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (run / "round-1" / "curated" / "shard-00000.jsonl").read_bytes() == before
    code, table = status(run)
    assert code == 0 and "finished" in table

    def inputs(step):
        return read_json(run / step / "run.json")["input_paths"]

    for step, one in product(("captions", "answers", "dev-captions", "dev-answers"), (1, 2)):
        assert inputs(f"round-1/{step}-{one}")["checkpoint"] == str(run / f"warmup-{one}")
        assert inputs(f"round-2/{step}-{one}")["checkpoint"] == str(run / "round-1" / "next")  # it is the sampler
    for number in (1, 2):  # candidates of all rounds
        for scored, k in (("answers-scored", 6), ("captions-scored", 8)):
            rows = list(read_records(run / f"round-{number}" / scored, ScoredSet))
            assert {len(row.candidates) for row in rows} == {k * number}
            assert {len({c.candidate.checkpoint for c in row.candidates}) for row in rows} == {1 + number}
    judged = inputs("round-2/promote")
    assert judged == {"candidate": str(run / "round-2/next-dev"), "incumbent": str(run / "round-1/next-dev")}
    splits = {name: read_json(run / name / "run.json")["config"]["split"] for name in ("round-2/next-dev", "eval-last")}
    assert splits == {"round-2/next-dev": "dev", "eval-last": "test"}
    for number in (1, 2):  # what is learnt from the run itself is of unlabelled images alone
        assert inputs(f"round-{number}/next-pretrain")["data.path"] == str(run / f"round-{number}" / "curated")
        images = {i for row in read_records(run / f"round-{number}" / "curated", Example) for i in row.images}
        assert images and all(name.startswith("images/unlabelled/") for name in images)
        assert read_json(run / f"round-{number}" / "promote" / "promotion.json")["promoted"]
    trained = {inputs(step)["data.path"] for step in ("round-2/next", "align")}
    assert trained == {str(run / "data" / "sft.json"), str(first / "data" / "align.json")}
    assert (run / "report" / "report.html").is_file()

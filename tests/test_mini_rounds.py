"""Two rounds of the mini world end to end on few rows, killed on the way: the second round samples from the model of
the first, candidates are pooled, and where the run stands is told at any time."""

import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from warm_sicog import warm_sicog

from sicog.records import Example, ScoredSet
from sicog.stages.storage import read_json, read_records

ROOT = Path(__file__).parents[1]
RECIPE = """
extends: {root}/recipes/mini-rounds-quick.yaml
run_dir: {run_dir}
steps:
  data:
    config: {{align: 48, sft: 24, warmup_captions: 32, warmup_reasoning: 32, unlabelled: 12, dev: 6, test: 6}}
"""
SECONDS = 300


def start(*command, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    command = list(map(str, command))
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, **options)


def status(run_dir) -> tuple[int, str]:
    asked = start(warm_sicog(), "status", run_dir)
    return asked.wait(SECONDS), asked.stdout.read()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_rounds_run_to_their_end_after_a_kill(tmp_path):
    recipe, run = tmp_path / "rounds.yaml", tmp_path / "run"
    recipe.write_text(RECIPE.format(root=ROOT, run_dir=run))
    killed = start(sys.executable, "-m", "sicog", "run", recipe, start_new_session=True)
    try:
        deadline = time.monotonic() + SECONDS
        while not (run / ".steps" / "round-1" / "next-pretrain.json").is_file():
            assert killed.poll() is None and time.monotonic() < deadline, killed.stdout.read()
            time.sleep(0.05)
        code, table = status(run)
        assert code == 0 and "running" in table, table  # it only looks; the run goes on
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    code, table = status(run)
    assert code == 1 and "stopped" in table and "no process is running" in table
    before = (run / "round-1" / "curated" / "shard-00000.jsonl").read_bytes()
    again = start(warm_sicog(), "run", recipe)
    output = again.communicate(timeout=SECONDS)[0]
    assert again.returncode == 0, output
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
    assert trained == {str(run / "data" / "sft.json"), str(run / "data" / "align.json")}
    assert (run / "report" / "report.html").is_file()

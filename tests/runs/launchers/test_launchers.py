"""The same step by `sicog run`, by its script, by `sicog step` and by torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_checkpoint
from warm_sicog import warm_python

from sicog.mini.write_world import MiniDataConfig, write_mini_data
from sicog.runs.execute import run_planned
from sicog.runs.run import run
from sicog.runs.states import read_state, read_steps, write_state
from sicog.runs.status import show_status, status_of
from sicog.stages.provenance import digest_file
from sicog.stages.storage import read_json

ROOT = Path(__file__).parents[3]
RECIPE = """
run_dir: {folder}/run
steps:
  tuned:
    run: train
    defaults: {root}/training_scripts/configs/sft.yaml
    config:
      model: {{checkpoint: {folder}/model}}
      data: {{path: {folder}/data/align.json, image_folder: {folder}/data}}
      global_batch: 4
      device_batch: 2
      learning_rate: 1.0e-3
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a tiny checkpoint, a little data and the recipe."""
    folder = tmp_path_factory.mktemp("launchers")
    tiny_checkpoint(folder / "model")
    counts = {"align": 8, "sft": 1, "warmup_captions": 1, "warmup_reasoning": 1, "unlabelled": 1, "dev": 1, "test": 1}
    write_mini_data(MiniDataConfig(**counts), folder / "data")
    (folder / "r.yaml").write_text(RECIPE.format(folder=folder, root=ROOT))
    return folder


@pytest.mark.slow
def test_a_script_gives_the_weights_of_the_recipes_step(prepared, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run_dir = run(prepared / "r.yaml")
    variables = {
        "PATH": f"{warm_python().parent}{os.pathsep}{os.environ['PATH']}",
        "EXPERIMENT_NAME": "x",
        "OUTPUT_DIR": prepared / "by-script",
        "PREV_STAGE_CHECKPOINT": prepared / "model",
        "DATA_PATH": prepared / "data" / "align.json",
        "IMAGE_FOLDER": prepared / "data",
        "FINETUNE_LEARNING_RATE": "1e-3",
        "FINETUNE_BATCH": "2",
        "GLOBAL_BATCH": "4",
    }
    script = ROOT / "training_scripts" / "uhdv1-finetune-qwen-stage2-sft.sh"
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, cwd=prepared)
    assert done.returncode == 0, done.stderr
    weights = [digest_file(folder / "model.safetensors") for folder in (run_dir / "tuned", prepared / "by-script")]
    assert weights[0] == weights[1]
    assert [str(line.progress) for line in status_of(run_dir)] == ["2/2 updates"]


@pytest.mark.slow
def test_torchrun_trains_in_so_many_processes(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "executable", str(warm_python()))
    options = [f"run_dir={tmp_path}/run", "launcher.on=torchrun", "launcher.processes=2"]
    run_dir = run(prepared / "r.yaml", options)
    assert read_json(run_dir / "tuned" / "manifest.json")["steps"] == 2
    assert read_state(run_dir, "tuned").state == "done" and show_status(run_dir)


def test_a_step_alone_needs_what_it_builds_on(tmp_path):
    path = tmp_path / "r.yaml"
    counts = "align: 2, sft: 1, warmup_captions: 1, warmup_reasoning: 2, unlabelled: 1, dev: 1, test: 1"
    data = f"{{run: mini-data, config: {{{counts}}}}}"
    rows = '{run: annotate, config: {task: reasoning, input: "${data}/warmup_reasoning.jsonl"}}'
    path.write_text(f"run_dir: {tmp_path}/run\nsteps:\n  data: {data}\n  rows: {rows}\n")
    run_dir = run(path, until="data")
    data_step, rows_step = read_steps(run_dir)
    with pytest.raises(ValueError, match="has no step 'row'. Use one of: data, rows"):
        run_planned(run_dir, "row")
    with pytest.raises(ValueError, match="'rows' of .* has changed since it was submitted"):
        run_planned(run_dir, "rows", key="other")
    state = read_state(run_dir, "data")
    write_state(data_step, type(state)(state.key, "stopped"))
    with pytest.raises(ValueError, match="'rows' of .* needs data. Run these steps first"):
        run_planned(run_dir, "rows")
    write_state(data_step, state)
    run_planned(run_dir, "rows", key=rows_step.key)
    assert [line.standing for line in status_of(run_dir)] == ["done", "done"]
    before = (run_dir / ".steps" / "rows.json").read_bytes()
    run_planned(run_dir, "rows")
    assert (run_dir / ".steps" / "rows.json").read_bytes() == before

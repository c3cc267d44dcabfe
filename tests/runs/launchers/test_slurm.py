"""slurm.py with stand-ins that run the jobs at once: one job a step, in order of need; a relaunch does the rest."""

import json
import re
import sys

import pytest
from slurm_stand_in import install
from warm_sicog import warm_python

from sicog.runs.launchers.slurm import job_script
from sicog.runs.recipe import load_recipe
from sicog.runs.run import run
from sicog.runs.states import read_job
from sicog.runs.status import show_status, status_of
from sicog.stages.storage import count_rows

pytest.importorskip("datatrove")
RECIPE = """
run_dir: {folder}/run
launcher:
  on: slurm
  data: {{cpus: 2, partition: cpu}}
  train: {{gpus: 1, nodes: 1, options: {{account: mine}}}}
  array_tasks: 1
steps:
  data:
    run: mini-data
    config: {{align: 4, sft: 4, warmup_captions: 2, warmup_reasoning: 5, unlabelled: 4, dev: 1, test: 1}}
"""
ANNOTATED = """
  reasoning:
    run: annotate
    config: {task: reasoning, input: WARMUP}
    job: {time: "01:00:00"}
  all:
    run: build
    config: {sources: [{name: a, path: "${reasoning}/chain"}, {name: b, path: "${reasoning}/plain"}]}
"""
TRAINED = """
  align:
    run: train
    config:
      stage: align
      model: {checkpoint: MODEL}
      data: {path: "${data}/align.json", image_folder: "${data}"}
      trainable: [projector]
      slicing: false
      learning_rate: 1.0e-3
      global_batch: 2
      device_batch: 2
  captions:
    run: sample
    config:
      {task: captioning, checkpoint: "${align}", input: "${data}/unlabelled_images.json", image_folder: "${data}",
       styles: [{style: dd}], max_new_tokens: 4}
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of stand-ins on PATH. What jobs start is warm."""
    monkeypatch.setenv("PATH", install(tmp_path / "slurm"))
    monkeypatch.setattr(sys, "executable", str(warm_python()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "slurm"


def codes(slurm):
    return {int(p.name[4:]): p.read_text() for p in slurm.glob("job-*")}


def recipe(tmp_path, warmup="${data}/warmup_reasoning.jsonl", *, steps=ANNOTATED):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(folder=tmp_path) + steps.replace("WARMUP", f'"{warmup}"'))
    return path


@pytest.mark.slow
def test_failed_jobs_are_submitted_again_and_no_others(tmp_path, slurm, capsys):
    broken = tmp_path / "broken.jsonl"
    broken.write_text("no json\n" * 5)
    path = recipe(tmp_path, str(broken))
    run_dir = run(path)
    assert codes(slurm) == {1: "0", 2: "2", 3: "1"}  # what needs the failed one does not begin
    assert (slurm / "asked-3").read_text() == "--dependency=afterok:2 --kill-on-invalid-dep=yes"
    script = (slurm / "script-2.sh").read_text()
    assert "--cpus-per-task=2" in script and "--partition=cpu" in script and "--time=01:00:00" in script
    assert not show_status(run_dir)
    found = {line.step.name: line for line in status_of(run_dir)}
    assert [found[n].standing for n in ("data", "reasoning", "all")] == ["done", "failed", "stopped"]
    assert "cannot be used" in found["reasoning"].error and "cannot be used" in capsys.readouterr().out
    run(recipe(tmp_path))
    assert codes(slurm) == {1: "0", 2: "2", 3: "1", 4: "0", 5: "0"}  # data is done and stays
    assert count_rows(run_dir / "all") == 10 and show_status(run_dir)
    run(path=recipe(tmp_path))
    assert len(codes(slurm)) == 5  # finished: nothing is submitted


def test_jobs_that_wait_are_not_submitted_twice(tmp_path, slurm, capsys):
    (slurm / "hold").touch()
    path = recipe(tmp_path)
    run_dir = run(path)
    assert set(codes(slurm).values()) == {"held"} and len(codes(slurm)) == 3
    assert "scancel 1 2 3" in re.sub(r"\s+", " ", capsys.readouterr().err)
    with pytest.raises(ValueError, match="step 'data' has changed, but job 1 still runs its old version"):
        run(path, ["steps.data.config.align=5"])
    run(path)
    assert len(codes(slurm)) == 3
    assert [line.standing for line in status_of(run_dir)] == ["queued"] * 3 and show_status(run_dir)
    with pytest.raises(
        ValueError, match=r"step 'data' is running as SLURM job 1. .* scancel 1, or resume with launcher.on=slurm"
    ):
        run(path, ["launcher.on=local"])
    (slurm / "hold").unlink()  # as scancel would: the jobs are gone
    assert [line.standing for line in status_of(run_dir)] == ["stopped"] * 3 and not show_status(run_dir)
    run(path, ["launcher.on=local"])
    assert [line.standing for line in status_of(run_dir)] == ["done"] * 3 and show_status(run_dir)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_and_an_array_are_jobs_of_their_own_kind(tiny_dir, tmp_path, slurm):
    path = recipe(tmp_path, steps=TRAINED.replace("MODEL", str(tiny_dir)))
    run_dir = run(path)
    assert set(codes(slurm).values()) == {"0"}, "".join(p.read_text() for p in (run_dir / ".steps").glob("*.log"))
    training = next(text for p in slurm.glob("script-*") if "run-align" in (text := p.read_text()))
    for wanted in (
        "--gpus-per-node=1",
        "--account=mine",
        "--signal=B:USR1@300",
        "--requeue",
        "srun --kill-on-bad-exit",
    ):
        assert wanted in training
    assert read_job(run_dir, "align") and count_rows(run_dir / "captions") == 4
    arrays = [text for p in slurm.glob("script-*") if "--job-name=sample\n" in (text := p.read_text())]
    assert len(arrays) == 1 and "--array=0-0" in arrays[0] and "--gpus=1" in arrays[0]
    assert json.loads((run_dir / "captions" / ".launch" / "jobs.json").read_text())["finish"]
    keys = {p.stem: json.loads(p.read_text())["key"] for p in (run_dir / ".steps").glob("*.json")}
    before = len(codes(slurm))
    run(path, ["launcher.on=local"])  # the same steps, whoever starts them
    assert len(codes(slurm)) == before
    assert keys == {p.stem: json.loads(p.read_text())["key"] for p in (run_dir / ".steps").glob("*.json")}


@pytest.mark.parametrize(("own", "memory"), [({}, 48), ({"memory_gb": 20}, 20)])
def test_memory_of_a_job_and_of_the_tasks_of_its_array_is_that_of_a_node(tiny_dir, tmp_path, own, memory):
    path = recipe(tmp_path, steps=TRAINED.replace("MODEL", str(tiny_dir)))
    overrides = ["launcher.data.memory_gb=48", "launcher.train.memory_gb=200"]
    overrides += [f"steps.captions.job={json.dumps(own)}"]
    steps = {step.name: step for step in load_recipe(path, overrides).steps}
    assert "#SBATCH --mem=48G" in job_script(steps["data"], tmp_path / "log")
    assert "#SBATCH --mem=200G" in job_script(steps["align"], tmp_path / "log")
    launch = steps["captions"].config.launch
    assert launch.memory_gb == launch.task_memory_gb == memory
    assert "--mem" not in job_script(steps["captions"], tmp_path / "log")  # it only waits for the array
    unset = {step.name: step for step in load_recipe(path).steps}
    assert unset["captions"].config.launch.task_memory_gb == 8  # 4 for each of two cores


SCORED = """
  scored: {run: score, config: {input: candidates, scorer: SCORER}}
"""


@pytest.mark.parametrize(("scorer", "on"), [("answer", "local"), ("both", "slurm")])
def test_only_a_step_that_embeds_texts_gets_an_array(tmp_path, scorer, on):
    path = recipe(tmp_path, steps=SCORED.replace("SCORER", scorer))
    steps = {step.name: step for step in load_recipe(path).steps}
    assert steps["scored"].config.launch.on == on


def test_without_slurm_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine may have a real sbatch where others have none
    with pytest.raises(ValueError, match="sbatch and squeue are not on PATH"):
        run(recipe(tmp_path))

"""`sicog eval` against a stand-in of the kit (tests/evaluation/stub): the protocol, errors, resuming, judges.

The kit itself is run in test_real_kit.py (`make test-eval`)."""

import base64
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image
from tiny import tiny_checkpoint

from sicog.evaluation.config import EvalConfig
from sicog.evaluation.kit import evaluate as run
from sicog.evaluation.kit.evaluate import evaluate, imported_checkpoint
from sicog.evaluation.kit.work_folder import fresh_scores, work_folder
from sicog.runs.recipe import load_recipe
from sicog.stages.storage import read_json

STUB = Path(__file__).parents[1] / "stub"
ROOT = Path(__file__).parents[3]
SUITE = """
benchmarks:
  - {name: words, table: words.tsv, form: short}
  - {name: claims, table: claims.tsv, form: yes_no}
  - {name: options, table: options.tsv, form: choice}
"""


@pytest.fixture(autouse=True)
def _stub(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STUB), str(ROOT)]))
    monkeypatch.setenv("LMUData", str(tmp_path / "lmu"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def tables(tmp_path):
    picture = tmp_path / "p.png"
    Image.linear_gradient("L").resize((60, 40)).convert("RGB").save(picture)
    cell = base64.b64encode(picture.read_bytes()).decode()
    head = "index\tquestion\tanswer\timage"
    (tmp_path / "words.tsv").write_text(f"{head}\n" + "".join(f"{i}\tWord {i}?\tNone\t{cell}\n" for i in range(5)))
    (tmp_path / "claims.tsv").write_text("index\tquestion\tanswer\timage_path\n0\tIs it?\tyes\tp.png\n")
    (tmp_path / "options.tsv").write_text(f"{head}\tA\tB\n0\tWhich?\tB\t{cell}\tred\tblue\n")
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path / "suite.yaml"


def config(tmp_path, tiny_dir, **values):
    given = {"checkpoint": tiny_dir, "out_dir": tmp_path / "results", "python": Path(sys.executable)}
    return EvalConfig(**{**given, "max_new_tokens": 3, "device": "cpu", **values})


def test_tables_are_asked_scored_and_not_run_again(tmp_path, tiny_dir, tables, capsys):
    values = {"suite": str(tables), "name": "tiny", "batch_size": 3}
    work = evaluate(config(tmp_path, tiny_dir, **values))
    scores = read_json(work / "scores.json")
    assert work.name.startswith("tiny-") and scores["name"] == "tiny"
    assert {name: score["place"] for name, score in scores["benchmarks"].items()} == {
        "words": 0,
        "claims": 1,
        "options": 2,
    }
    for score in scores["benchmarks"].values():
        assert 0 <= score["value"] <= 100 and score["reason"] is None
        assert score["prompt"] and score["judge"] == "exact_matching"
        assert {"torch", "transformers", "sicog"} <= set(score["versions"]) and "version" in score["kit"]
    assert read_json(work / "job.json")["model"]["batch_size"] == 3
    log = (work / "kit.log").stat().st_mtime_ns
    assert evaluate(config(tmp_path, tiny_dir, **{**values, "name": "another name"})) == work
    assert (work / "kit.log").stat().st_mtime_ns == log  # nothing was started
    given = config(tmp_path, tiny_dir, **values)
    same = given.model_copy(update={"device": "cuda", "precision": "float32", "batch_size": 1})
    others = [{"style": "cot"}, {"judge": "gpt-4o"}, {"limit": 1}, {"seed": 1}, {"slicing": False}]
    changed = [(given.model_copy(update=update), tiny_dir) for update in others]
    changed.append((given, tiny_checkpoint(tmp_path / "other", seed=1)))
    assert work_folder(same, fresh_scores(same, tiny_dir)) == work
    assert len({work_folder(c, fresh_scores(c, m)) for c, m in changed} | {work}) == 7
    assert "claims: " in capsys.readouterr().err


def kit_suite(tmp_path, *names):
    entries = {
        "FINE": "{name: fine, dataset: FINE, form: choice}",
        "BROKEN": "{name: broken, dataset: BROKEN, form: choice}",
        "OPEN": "{name: talk, dataset: OPEN, form: open, family: mmvet}",
    }
    path = tmp_path / "kit.yaml"
    path.write_text(f"benchmarks: [{', '.join(entries[name] for name in names)}]")
    return str(path)


def answered(given, tiny_dir, *names):
    """As if a start before had answered these data sets: no model is needed then."""
    folder = work_folder(given, fresh_scores(given, tiny_dir)) / "sicog"
    folder.mkdir(parents=True)
    for name in names:
        pd.DataFrame([{"index": i, "prediction": "A"} for i in (0, 1)]).to_excel(folder / f"sicog_{name}.xlsx")


def test_a_benchmark_that_failed_is_an_error_though_the_kit_exits_with_0(tmp_path, tiny_dir):
    values = {"suite": kit_suite(tmp_path, "FINE", "BROKEN")}
    answered(config(tmp_path, tiny_dir, **values), tiny_dir, "FINE", "BROKEN")
    for _ in range(2):  # what failed is tried again
        with pytest.raises(ValueError, match=r"1 of 2 benchmarks failed: broken \(no judge answers\)"):
            evaluate(config(tmp_path, tiny_dir, **values))
        assert read_json(next(tmp_path.glob("results/*/job.json")))["data"][-1] == "BROKEN"
    assert read_json(next(tmp_path.glob("results/*/job.json")))["data"] == ["BROKEN"]
    scores = read_json(next(tmp_path.glob("results/*/scores.json")))["benchmarks"]
    assert scores["fine"]["value"] == 50.0 and scores["broken"]["value"] is None


def test_what_needs_a_judge_is_answered_and_scored_when_one_is_named(tmp_path, tiny_dir, capsys):
    values = {"suite": kit_suite(tmp_path, "OPEN")}
    answered(config(tmp_path, tiny_dir, **values), tiny_dir, "OPEN")
    first = evaluate(config(tmp_path, tiny_dir, **values))
    assert "talk: not scored (scored by a judge model only: give judge=NAME" in capsys.readouterr().err
    assert read_json(first / "job.json")["mode"] == "infer"
    answers = first / "sicog" / "sicog_OPEN.xlsx"
    second = evaluate(config(tmp_path, tiny_dir, **values, judge="gpt-4-turbo"))
    assert second != first and read_json(second / "scores.json")["benchmarks"]["talk"]["value"] == 50.0
    assert (second / "sicog" / "sicog_OPEN.xlsx").read_bytes() == answers.read_bytes()  # not answered again


def test_a_kit_that_breaks_down_shows_the_end_of_its_log(tmp_path, tiny_dir, tables, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # no kit at all
    with pytest.raises(ValueError, match=r"(?s)the kit failed with exit code 1.*No module named 'vlmeval'"):
        evaluate(config(tmp_path, tiny_dir, suite=str(tables)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"python": Path("/nowhere/python")}, "needs its own Python environment. Run `make eval-env`"),
        ({"kit": Path("/nowhere")}, "is not a checkout of VLMEvalKit"),
        ({"checkpoint": Path("/nowhere")}, "config.json is missing"),
        ({"devices": 2}, "devices=2, but this machine has 0 GPUs"),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(tmp_path, tiny_dir, tables, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(config(tmp_path, tiny_dir, suite=str(tables), **values))


def test_several_gpus_are_several_processes(tmp_path, tiny_dir, tables, monkeypatch):
    """The command only: here is no GPU, and the kit's processes speak over nccl."""
    commands = []
    monkeypatch.setattr(run, "gpus", lambda: ["0", "1", "2"])
    monkeypatch.setattr(run.subprocess, "run", lambda command, **_: commands.append(command) or Failed)
    for devices, sentence in (
        (None, "exit code 9"),
        (2, "exit code 9"),
        (1, "exit code 9"),
        (4, "this machine has 3 GPUs"),
    ):
        with pytest.raises(ValueError, match=sentence):
            evaluate(config(tmp_path, tiny_dir, suite=str(tables), devices=devices, device="auto"))
    launchers = [command[1:-3] for command in commands]
    assert launchers[2] == []
    assert [launcher[-1] for launcher in launchers[:2]] == ["3", "2"]
    assert launchers[0][:2] == ["-m", "torch.distributed.run"]


class Failed:
    returncode = 9


def test_a_recipe_s_step(tmp_path, tiny_dir, tables):
    recipe = tmp_path / "recipe.yaml"
    step = {"run": "eval", "config": {"checkpoint": str(tiny_dir), "suite": str(tables), "data_root": "/nowhere"}}
    recipe.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), "steps": {"scores": step}}))
    (resolved,) = load_recipe(recipe).steps
    assert resolved.config.out_dir == tmp_path / "run" / "scores" and resolved.config.judge == "exact_matching"


def test_a_checkpoint_of_the_original_is_imported_first(tmp_path, tables):
    from sicog.model.original.checkpoint import export_checkpoint

    ours = tiny_checkpoint(tmp_path / "ours", query_grid=8)
    vision = str(ours / "parts" / "vision")
    theirs = export_checkpoint(ours, tmp_path / "llava-qwen", vision_tower=vision)
    with pytest.raises(ValueError, match="It is in LLaVA's layout: set format=llava"):
        evaluate(config(tmp_path, theirs, suite=str(tables)))
    given = config(tmp_path, theirs, format="llava", vision_tower=vision)
    taken_in = imported_checkpoint(given)
    assert read_json(taken_in / "config.json")["model_type"] == "sicog"
    assert imported_checkpoint(given) == taken_in  # once

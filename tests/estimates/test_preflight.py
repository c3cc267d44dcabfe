"""preflight.py: a dry run says what a start would say, in one sentence each, and its exit code agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sicog import cli
from sicog.config import load_config
from sicog.config.packages import import_package, missing_package_message
from sicog.estimates.counts import Counts
from sicog.estimates.preflight import problems, work_is_finished
from sicog.estimates.refusals import refusals
from sicog.model.precision import chosen_device
from sicog.records import CandidateSet, Example, Query, Turn
from sicog.runs.recipe import load_recipe
from sicog.runs.verbs import VERBS
from sicog.stages.storage import write_dataset, write_json

TRAIN = ["stage=sft", "model.checkpoint=c", "data.path=d.json", "learning_rate=1e-3", "device_batch=4"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("c", "d.json"):
        Path(name).mkdir() if name == "c" else Path(name).write_text("[]")
    return tmp_path


def found(verb: str, *overrides: str) -> list[str]:
    return problems(VERBS[verb], load_config(VERBS[verb].config_type(), None, overrides))


def train(*overrides: str) -> list[str]:
    return found("train", *TRAIN, "out_dir=run", *overrides)


def test_a_start_that_would_begin_has_no_problem() -> None:
    assert train() == []
    assert found("select", "input=c", "out_dir=o", "threshold=0.5") == []


def test_each_input_that_is_missing_is_named_once() -> None:
    said = found("score", "input=[nothere,nothere,c]", "out_dir=o", "checkpoint=gone")
    assert said == ["nothere does not exist", "gone does not exist"]
    assert train("data.path=none.json", "data.image_folder=imagse") == [
        "none.json does not exist",
        "imagse does not exist",
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("global_batch=13", "global_batch 13 is not a multiple of device_batch 4"),
        ("report_to=[mlflow]", "report_to mlflow needs the package mlflow: pip install mlflow"),
        ("report_to=[wandb]", "report_to wandb needs the package wandb: pip install 'sicog[track]'"),
        ("optimizer=adamw_8bit", "optimizer adamw_8bit needs the package bitsandbytes: pip install bitsandbytes"),
        ("lora={r: 8}", "lora needs the package peft: pip install 'sicog[train]'"),
        ("parallel=zero2", "parallel zero2 needs the package deepspeed: pip install 'sicog[train]'"),
    ],
)
def test_sizes_and_packages(override: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (said,) = train(override)
    assert sentence in said


def test_what_is_within_a_config_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asks = ["input=d.json", "chain_dir=a", "plain_dir=b", "image_folder=c", "task=captioning"]
    (said,) = found("annotate", *asks, "teacher.endpoint.model=m")
    assert "OPENAI_API_KEY is not set" in said
    (said,) = found("score", "input=c", "out_dir=o", "encoder.name=package:nosuch")
    assert "package:nosuch: the package is not installed. Run pip install nosuch" in said


@pytest.mark.parametrize("verb", ["sample", "annotate", "train", "mix", "build", "import-candidates"])
def test_rows_of_a_kind_that_no_step_reads(verb: str) -> None:
    Path("x.csv").write_text("question,answer\n")
    Path("mixture.yaml").write_text("sources: [{path: x.csv}]\n")
    given = {
        "sample": ["task=captioning", "checkpoint=c", "input=x.csv", "out_dir=o"],
        "annotate": ["task=reasoning", "input=x.csv", "chain_dir=a", "plain_dir=b", "image_folder=c"],
        "train": [*TRAIN, "out_dir=run", "data.path=mixture.yaml"],
        "mix": ["sources=[{path: x.csv}]", "out_dir=o"],
        "build": ["sources=[{name: a, path: x.csv}]", "out_dir=o"],
        "import-candidates": ["task=captioning", "input=x.csv", "out_dir=o"],
    }[verb]
    (said,) = found(verb, *given)
    assert said.startswith("x.csv is not a data source. Give a dataset folder")


def test_a_folder_that_a_step_has_only_begun_is_read_by_no_other_and_written_by_its_recipe(here: Path) -> None:
    begun = here / "runs" / "r" / "kept"
    (begun / ".work").mkdir(parents=True)
    (begun / "run.json").write_text("{}")
    (said,) = found("sample", "task=captioning", "checkpoint=c", f"input={begun}", "out_dir=o")
    assert said == f"{begun} has no manifest.json: the step that writes it has not finished; run that step again"
    (here / "rows.json").write_text("[]")
    steps = {"kept": {"run": "build", "config": {"sources": [{"name": "a", "path": "rows.json"}]}}}
    steps["all"] = {"run": "build", "config": {"sources": [{"name": "b", "path": "${kept}"}]}}
    steps["other"] = {"run": "build", "config": {"sources": [{"name": "c", "path": "x.csv"}]}}
    (here / "r.yaml").write_text(json.dumps({"run_dir": str(here / "runs" / "r"), "steps": steps}))
    (here / "x.csv").write_text("question,answer\n")
    planned = load_recipe(here / "r.yaml")
    (said,) = refusals(planned, planned.steps, Counts(planned))
    assert said.startswith("step 'other': x.csv is not a data source")


def test_an_output_folder_of_another_run_or_of_strangers() -> None:
    config = load_config(VERBS["select"].config_type(), None, ["input=c", "out_dir=o", "threshold=0.5"])
    Path("o").mkdir()
    Path("o/notes.txt").touch()
    assert problems(VERBS["select"], config) == ["o is not empty and holds no run.json; choose another output folder"]
    write_json(Path("o/run.json"), {"step": "select", "identity": config.identity(), "inputs": {}})
    assert problems(VERBS["select"], config) == [] and not work_is_finished(VERBS["select"], config)
    write_json(Path("o/manifest.json"), {})
    assert work_is_finished(VERBS["select"], config)
    assert found("select", "input=c", "out_dir=o", "threshold=0.6") == [
        "o belongs to another run (threshold was 0.5, now 0.6); choose another output folder, or remove this one"
    ]


def test_a_folder_of_several_starts_is_no_stranger_s() -> None:
    Path("o/scored").mkdir(parents=True)
    assert found("curate", "input=c", "out_dir=o", "threshold=0.5") == []


def test_the_exit_code_of_a_dry_run() -> None:
    planned = CliRunner().invoke(cli.app, ["select", "input=c", "out_dir=o", "threshold=0.5", "--dry-run"])
    assert planned.exit_code == 0 and "threshold: 0.5" in planned.stdout and not planned.stderr
    refused = CliRunner().invoke(cli.app, ["select", "input=gone", "out_dir=o", "threshold=0.5", "--dry-run"])
    assert refused.exit_code == 1 and "input: gone" in refused.stdout
    assert refused.stderr == "a start would be refused: gone does not exist\n"


def recipe(here: Path, **config: object) -> list[str]:
    """A recipe that trains on the four kept rows of an earlier step; the command line to plan it."""
    rows = [Example(id=str(i), turns=(Turn(role="user", text="Q"), Turn(role="assistant", text="A"))) for i in range(4)]
    write_dataset(here / "rows", rows)
    train = {"stage": "sft", "model": {"checkpoint": "c"}, "data": {"path": "rows"}, "learning_rate": 1e-3, **config}
    path = here / "r.yaml"
    path.write_text(json.dumps({"run_dir": "runs/r", "steps": {"model": {"run": "train", "config": train}}}))
    return ["run", str(path)]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"device_batch": 5, "global_batch": 12}, "step 'model': global_batch 12 is not a multiple of device_batch 5"),
        ({"device_batch": 8, "global_batch": 8}, "step 'model': 4 rows are fewer than an update has (global_batch 8)"),
        ({"device_batch": 2, "global_batch": 4, "report_to": ["dvclive"]}, "step 'model': report_to dvclive needs"),
    ],
)
def test_a_recipe_s_plan_and_its_start_refuse_the_same(here: Path, config: dict[str, object], sentence: str) -> None:
    command = recipe(here, **config)
    planned = CliRunner().invoke(cli.app, [*command, "--dry-run"])
    assert planned.exit_code == 1 and f"REFUSED {sentence}" in planned.stdout
    started = CliRunner().invoke(cli.app, command)
    assert sentence in str(started.exception) and not (here / "runs").exists()


def test_a_plan_of_a_recipe_that_can_start(here: Path) -> None:
    planned = CliRunner().invoke(cli.app, [*recipe(here, device_batch=2, global_batch=4), "--dry-run"])
    assert planned.exit_code == 0 and "REFUSED" not in planned.stdout


def test_a_package_that_is_missing_is_said_and_one_that_breaks_is_not_called_missing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert missing_package_message("json", "this") == [] and import_package("json", "this") is json
    assert missing_package_message("no.such", "this") == ["this needs the package no.such: pip install no.such"]
    with pytest.raises(ValueError, match="this needs the package nosuch: pip install nosuch"):
        import_package("nosuch", "this")
    (here / "breaks.py").write_text("import nosuch")
    monkeypatch.syspath_prepend(str(here))
    with pytest.raises(ImportError, match="No module named 'nosuch'"):
        import_package("breaks", "this")


def test_candidates_of_a_curate_step_are_counted(here: Path) -> None:
    write_dataset(
        here / "sets",
        [
            CandidateSet(id=str(i), query=Query(id=str(i), task="reasoning", question="?"), candidates=())
            for i in range(6)
        ],
    )
    steps = {"kept": {"run": "curate", "config": {"input": ["sets"], "threshold": 0.5}}}
    steps["all"] = {"run": "build", "config": {"sources": [{"name": "kept", "path": "${kept}/selected"}]}}
    (here / "r.yaml").write_text(json.dumps({"run_dir": "runs/r", "steps": steps}))
    planned = load_recipe(here / "r.yaml")
    counts = Counts(planned)
    assert [str(counts.of(step).gives) for step in planned.steps] == ["~ 3", "~ 3"]


@pytest.mark.parametrize("device", ["cuda:91", "mps", "xpu:3"])
def test_a_device_that_is_not_there_is_said_before_a_model_is_loaded(device: str) -> None:
    with pytest.raises(ValueError, match=rf"^device={device} is not on this machine \(.+\)\. Set device=auto$"):
        chosen_device(device)


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:", "cuda:x"])
def test_what_is_no_device_is_said(device: str) -> None:
    with pytest.raises(
        ValueError, match=f"^device={device} is invalid. Give auto, cpu, cuda, or one GPU such as cuda:0$"
    ):
        chosen_device(device)

"""`sicog report RUN_DIR`: the finished report while it fits its run, else a page of what there is."""

import shutil
from pathlib import Path

import pytest
from report.fake_run import fake_run, page_data
from typer.testing import CliRunner

from sicog import cli
from sicog.report.discover import report_run
from sicog.report.write import ReportConfig, report
from sicog.stages.storage import read_json, write_json

STEPS = ["data", "align", "warmup-captions", "captions-scored", "captions-threshold", "captions-selected"]
STEPS += ["answers-scored", "answers-threshold", "answers-selected", "next", "eval-base", "eval-next", "eval-control"]


def states(run_dir, started=None):
    """What `sicog run` writes: all steps done in the earlier run, and the one at which the newer run was stopped."""
    for name in [*STEPS, "report"]:
        write_json(run_dir / ".steps" / f"{name}.json", {"key": "k", "state": "done", "seconds": 1.0})
    if started:
        write_json(run_dir / ".steps" / f"{started}.json", {"key": "k2", "state": "started", "seconds": 1.0})


def plan(run_dir, values):
    config = ReportConfig(**values)
    steps = [{"name": name, "verb": "x", "config": {}} for name in STEPS]
    steps.append({"name": "report", "verb": "report", "config": config.model_dump(mode="json")})
    write_json(run_dir / "recipe.json", steps)
    return config


@pytest.fixture
def run_dir(tmp_path):
    """A run with a finished report."""
    values = fake_run(tmp_path / "run", images=8, items=10)
    report(plan(tmp_path / "run", values))
    states(tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_shows_its_report(run_dir):
    assert report_run(run_dir) == run_dir / "report"
    assert not (run_dir / "report-so-far").exists()


def test_a_changed_run_that_was_stopped_shows_what_is_new(run_dir):
    """`align` was put aside and is being trained again: all behind it is of the earlier run."""
    shutil.rmtree(run_dir / "align")
    states(run_dir, started="align")
    done = CliRunner().invoke(cli.app, ["report", str(run_dir)])
    assert done.exit_code == 0 and "is not finished" in " ".join(done.output.split())
    results = read_json(run_dir / "report-so-far" / "results.json")
    assert (results["funnel"], results["training"], results["curation"]) == ([], [], {})
    assert results["evaluation"] is None


def test_the_steps_before_the_stop_are_shown(run_dir):
    shutil.rmtree(run_dir / "answers-threshold")
    states(run_dir, started="answers-threshold")
    results = read_json(report_run(run_dir) / "results.json")
    assert [t["name"] for t in results["training"]] == ["align"]
    assert results["curation"]["captions"]["kept"] and results["curation"]["reasoning"]["kept"] is None
    assert [step["name"] for step in results["funnel"]] == ["warmup-captions/chain", "captions-selected"]
    assert results["curation"]["captions"]["worth"] and results["evaluation"] is None


def test_an_earlier_report_that_no_input_betrays_is_not_shown_as_new(run_dir):
    """The step that was stopped gives the report nothing itself, so all its inputs are there: those of the old run."""
    states(run_dir, started="data")
    assert report_run(run_dir) == run_dir / "report-so-far"


@pytest.mark.parametrize("change", ["an input is gone", "an input is another", "the recipe is another"])
def test_a_report_that_does_not_fit_gives_way(run_dir, change, capsys):
    config = read_json(run_dir / "recipe.json")[-1]["config"]
    if change == "an input is gone":
        shutil.rmtree(run_dir / "eval-control")
    elif change == "an input is another":
        with (run_dir / "align" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 301, "loss": 0.1}\n')
    else:
        plan(run_dir, {**config, "seed": 5})
    assert report_run(run_dir) == run_dir / "report-so-far"
    assert report_run(run_dir) == run_dir / "report-so-far"  # again: an earlier page so far is replaced
    said = " ".join(capsys.readouterr().err.split())
    assert "its report no longer fits" in said
    names = ["base", "next"] if change == "an input is gone" else ["base", "next", "control"]
    assert sorted(read_json(run_dir / "report-so-far" / "results.json")["evaluation"]["names"]) == sorted(names)


def test_a_run_that_was_started_elsewhere_or_moved_shows_its_report(tmp_path, monkeypatch):
    """Plans hold the paths as they were given, from the folder where the run was started."""
    start = tmp_path / "start"
    start.mkdir()
    monkeypatch.chdir(start)
    values = fake_run(Path("runs/mini"), images=8, items=10)
    (start / "runs/mini/data").rename(start / "images")
    moved = {"image_folder": Path("images"), "truth": Path("images/truth/unlabelled.jsonl")}
    made = report(plan(Path("runs/mini"), {**values, **moved}))
    states(Path("runs/mini"))
    whole = read_json(made / "results.json")
    monkeypatch.chdir(tmp_path)
    assert report_run(Path("start/runs/mini")) == Path("start/runs/mini/report")  # the finished one fits
    elsewhere = report_run(Path("start/runs/mini"), tmp_path / "page")
    shown = read_json(elsewhere / "results.json")
    assert shown.pop("evaluation")["names"] and shown == {k: v for k, v in whole.items() if k != "evaluation"}
    assert page_data((elsewhere / "report.html").read_text())["images"] == "../start/images/"
    (start / "runs/mini").rename(tmp_path / "other")
    alone = read_json(report_run(tmp_path / "other", tmp_path / "moved") / "results.json")  # without truth and images
    assert sorted(alone["evaluation"]["names"]) == ["base", "control", "next"] and alone["rows"] == whole["rows"] > 0
    threshold = whole["curation"]["captions"]["threshold"]
    assert alone["curation"]["captions"]["threshold"] == threshold
    step = read_json(report_run(tmp_path / "other/captions-selected", tmp_path / "step") / "results.json")
    assert step["curation"]["captions-selected"]["threshold"] == threshold

"""`sicog report DIR` of one step's folder, or of a run that no recipe made; and the times beside the page."""

import json
import shutil
import sqlite3

import pytest
from report.fake_run import fake_run, page_data
from typer.testing import CliRunner

from sicog import cli
from sicog.report import times
from sicog.report.discover import report_run
from sicog.storage import read_json, write_dataset, write_json


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fake_run(folder, images=8, items=10)
    return folder


def results(out):
    return read_json(out / "results.json")


def test_a_scored_folder_shows_its_rows_and_a_threshold_to_try(run_dir, tmp_path):
    out = report_run(run_dir / "captions-scored", tmp_path / "out")
    found = results(out)
    assert list(found["curation"]) == ["captions-scored"] and found["curation"]["captions-scored"]["kept"] is None
    assert found["rows"] == 8 and {e["state"] for e in found["examples"]} == {"open"}
    assert found["curation"]["captions-scored"]["cuts"]["rows"] == 8
    assert out == tmp_path / "out" and not (run_dir / "captions-scored" / "report").exists()


def test_a_selected_folder_finds_the_candidates_it_was_made_from(run_dir, tmp_path):
    found = results(report_run(run_dir / "answers-selected", tmp_path / "out"))
    assert found["rows"] == 16 and found["curation"]["answers-selected"]["sweep"]
    assert {len(e["candidates"]) for e in found["examples"]} == {5}
    assert [step["name"] for step in found["funnel"]] == ["answers-selected"]


def test_without_them_the_kept_rows_are_shown(run_dir, tmp_path):
    shutil.copytree(run_dir / "answers-selected", tmp_path / "kept")
    written = json.loads((tmp_path / "kept" / "run.json").read_text())
    written["input_paths"]["scored"] = "nowhere"
    (tmp_path / "kept" / "run.json").write_text(json.dumps(written))
    found = results(report_run(tmp_path / "kept"))
    assert found["curation"] == {} and found["rows"] == read_json(tmp_path / "kept" / "manifest.json")["rows_out"]
    assert [role for role, _ in found["examples"][0]["turns"]] == ["user", "assistant"]


def test_candidates_and_pairs_can_be_looked_at(run_dir, tmp_path):
    from sicog.records import CandidateSet, ScoredSet
    from sicog.storage import read_records

    scored = read_records(run_dir / "captions-scored", ScoredSet)
    sets = [CandidateSet(id=s.id, query=s.query, candidates=tuple(c.candidate for c in s.candidates)) for s in scored]
    write_dataset(tmp_path / "sampled", sets)
    found = results(report_run(tmp_path / "sampled"))
    assert found["rows"] == 8 and "score" not in found["examples"][0]["candidates"][0]
    assert found["mix"]["sampled"]["styles"][0]["candidates"] == 16
    found = results(report_run(run_dir / "answers-selected" / "pairs", tmp_path / "pairs"))
    assert [c["style"] for c in found["examples"][0]["candidates"]] == ["chosen", "rejected"]


def test_a_run_that_no_recipe_made_is_found_step_by_step(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "by hand", ignore=shutil.ignore_patterns("data", "eval-*", "report"))
    first = report_run(tmp_path / "by hand")
    found = results(first)
    assert list(found["curation"]) == ["answers-selected", "captions-selected"]
    assert [run["name"] for run in found["training"]] == ["align", "next"]
    again = report_run(tmp_path / "by hand")  # the earlier report is no step, and gives way
    assert again == first and results(again) == found


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").touch()
    with pytest.raises(ValueError, match="holds nothing to show"):
        report_run(tmp_path / "holiday")
    write_dataset(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="is not empty and holds no run.json"):
        report_run(tmp_path / "empty", tmp_path / "holiday")
    assert [p.name for p in (tmp_path / "holiday").iterdir()] == ["photo.jpg"]
    done = CliRunner().invoke(cli.app, ["report", str(tmp_path / "empty"), "--out", str(tmp_path / "page")])
    assert done.exit_code == 0 and results(tmp_path / "page")["rows"] == 0


def test_the_images_and_how_they_are_cut_are_found_through_the_steps(run_dir, tmp_path):
    """sampled (image folder, checkpoint) -> scored: what the page needs stands two run.json further back."""
    scored = shutil.copytree(run_dir / "captions-scored", tmp_path / "scored")
    sampled = {"config": {"image_folder": str(run_dir / "data"), "checkpoint": "model"}, "input_paths": {}}
    write_json(tmp_path / "sampled" / "run.json", {**sampled, "step": "sample"})
    processor = {"image_processor": {"scale": 112, "patch_size": 14, "max_slices": 4, "max_patches": 2304}}
    write_json(tmp_path / "model" / "processor_config.json", processor)
    write_json(scored / "run.json", {"step": "score", "config": {}, "input_paths": {"candidates": "gone/sampled"}})
    data = page_data((report_run(scored) / "report.html").read_text())
    assert data["slicing"] == {"scale": 112, "patch_size": 14, "max_slices": 4}
    assert data["images"].endswith("/data/") and not data["images"].startswith("/")
    assert all("src" in picture for picture in data["pictures"].values())


def told(page_dir):
    text = (page_dir / "times.js").read_text()
    return {step["name"]: step for step in json.loads(text.removeprefix("sicogTimes(").removesuffix(");\n"))}


def test_times_and_costs_lie_beside_the_page(tmp_path):
    states = {"a": ("done", 12.5), "b": ("started", 3.0), "c": ("done", 1800.0), "report": ("started", 0.0)}
    for name, (state, seconds) in states.items():
        write_json(tmp_path / ".steps" / f"{name}.json", {"key": "k", "state": state, "seconds": seconds, "verb": name})
    write_json(tmp_path / "recipe.json", [{"name": name} for name in states])
    write_json(tmp_path / "c" / "run.json", {"step": "sample", "config": {"price_per_hour": 4.0}})
    write_json(tmp_path / "c" / "manifest.json", {"rows_in": 90, "rows_out": 90})
    endpoint = {"prices": {"input": 2.0, "output": 10.0}}
    write_json(tmp_path / "a" / "chain" / "run.json", {"step": "revise", "config": {"teacher": {"endpoint": endpoint}}})
    (tmp_path / "a" / "teacher" / "answers").mkdir(parents=True)
    store = sqlite3.connect(tmp_path / "a" / "teacher" / "answers" / "answers.sqlite")
    store.execute("create table answers (input_tokens integer, output_tokens integer)")
    store.execute("create table lost (input_tokens integer, output_tokens integer)")
    store.executemany("insert into answers values (?, ?)", [(1000, 100), (2000, 200)])
    store.execute("insert into lost values (500, 0)")
    store.commit()
    store.close()
    times.write(tmp_path / "report", tmp_path, ())
    found = told(tmp_path / "report")
    assert list(found) == ["a", "c"]  # what is not done has no time yet
    teacher = {"answers": 2, "input_tokens": 3500, "output_tokens": 300, "usd": 0.01}
    assert found["a"] == {"name": "a", "verb": "a", "seconds": 12.5, "rows": None, "teacher": teacher}
    assert found["c"] == {"name": "c", "verb": "c", "seconds": 1800.0, "rows": 90, "machine_cost": 2.0}
    before = (tmp_path / "report" / "times.js").stat().st_mtime_ns
    times.write(tmp_path / "report", tmp_path, ())
    assert (tmp_path / "report" / "times.js").stat().st_mtime_ns == before

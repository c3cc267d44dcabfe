"""`sicog report DIR` of one step's folder, or of a run that no recipe made; and the times beside the page."""

import base64
import json
import math
import re
import shutil
import sqlite3
import struct

import pytest
from report.fake_run import fake_run, page_data
from typer.testing import CliRunner

from sicog import cli
from sicog.curation.select.select import SelectConfig, select
from sicog.curation.select.threshold_table import ThresholdsConfig, table
from sicog.records import AnnotatedRow, Candidate, Example, Query, ScoredCandidate, ScoredSet
from sicog.report import times
from sicog.report.browser_rows import example_row
from sicog.report.discover import report_run
from sicog.stages.storage import read_json, read_records, write_dataset, write_json


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
    cuts = found["curation"]["captions-scored"]["cuts"]
    assert cuts["rows"] == 6 and cuts["fixed"] == {"too_few_candidates": 2}  # as `select` and `sicog thresholds` do
    assert out == tmp_path / "out" and not (run_dir / "captions-scored" / "report").exists()


def counted_only(scored):
    """The same sets as `scorer: answer` leaves them: votes, no scores."""
    update = {"score": None, "agreement": None}
    return [
        row.model_copy(update={"candidates": tuple(c.model_copy(update=update) for c in row.candidates)})
        for row in read_records(scored, ScoredSet)
    ]


@pytest.mark.parametrize("selected", [False, True])
def test_rows_whose_answers_were_only_counted_have_their_threshold_too(run_dir, tmp_path, selected):
    write_dataset(tmp_path / "votes", counted_only(run_dir / "answers-scored"))
    folder = tmp_path / "votes"
    if selected:
        folder = tmp_path / "kept"
        select(SelectConfig(input=tmp_path / "votes", out_dir=folder, by="vote", threshold=0.7))
    report_run(folder, tmp_path / "out")
    (found,) = results(tmp_path / "out")["curation"].values()
    cuts = found["cuts"]
    assert (found["by"], found["rows"], found["without_choice"]) == ("vote", 16, 0)
    assert cuts["rows"] == 16 and not cuts["fixed"]  # of five votes each, those that were dropped among them
    line = table(ThresholdsConfig(input=tmp_path / "votes", by="vote", cuts=(cuts["cuts"][cuts["at"]],)))["table"][0]
    assert sum(sum(style["rows"][cuts["at"] :]) for style in cuts["styles"].values()) == line["rows_kept"] > 0
    assert not selected or found["kept"] == line["rows_kept"] < 16
    assert all(e["chosen"] is not None for e in results(tmp_path / "out")["examples"])


def test_rows_that_cannot_be_chosen_from_say_why_before_they_are_selected(tmp_path):
    def row(row_id, *marks):
        query = Query(id=row_id, task="reasoning", question="How many?")
        given = {
            "query_id": row_id,
            "style": "direct",
            "prompt": "p",
            "seed": 0,
            "finish_reason": "stop",
            "n_tokens": 1,
        }
        candidates = []
        for i, why in enumerate(marks):
            one = Candidate(index=i, text="two", checkpoint="c", **given)
            told = {"excluded": why} if why else {"score": 1.0, "agreement": 1.0}
            candidates.append(ScoredCandidate(candidate=one, compared=None if why else "two", **told))
        return ScoredSet(id=row_id, query=query, candidates=tuple(candidates), encoder="e")

    rows = [row("whole", None, None, None), row("two", None, None, "cut"), row("cut", "cut", "cut"), row("none")]
    write_dataset(tmp_path / "scored", [*rows, row("broken", "cut", "unparsed", "empty")])
    found = results(report_run(tmp_path / "scored"))["curation"]["scored"]
    select(SelectConfig(input=tmp_path / "scored", out_dir=tmp_path / "selected", threshold=0.5))
    dropped = read_json(tmp_path / "selected" / "manifest.json")["dropped"]
    assert found["cuts"]["fixed"] == dropped == {"all_cut": 1, "parse_failure": 1, "too_few_candidates": 2}
    after = results(report_run(tmp_path / "selected"))["curation"]["selected"]
    assert after["cuts"]["fixed"] == dropped and after["cuts"]["rows"] == found["cuts"]["rows"] == 1
    page = " ".join((tmp_path / "selected" / "report" / "report.html").read_text().split())
    assert re.search(
        r"1 of 5 scored rows was kept \([\d.]+ %\)\. Dropped whatever the threshold: too few candidates 2, ", page
    )


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
    from sicog.stages.storage import read_records

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
    with pytest.raises(ValueError, match="has nothing to show"):
        report_run(tmp_path / "holiday")
    write_dataset(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="is not empty and holds no run.json"):
        report_run(tmp_path / "empty", tmp_path / "holiday")
    assert [p.name for p in (tmp_path / "holiday").iterdir()] == ["photo.jpg"]
    done = CliRunner().invoke(cli.app, ["report", str(tmp_path / "empty"), "--out", str(tmp_path / "page")])
    assert done.exit_code == 0 and results(tmp_path / "page")["rows"] == 0


def test_kept_examples_have_the_scores_that_thresholds_speak_of(run_dir, tmp_path):
    """Five votes a row: among three candidates each would stand for another share."""
    scored = {row.id: row for row in read_records(run_dir / "answers-scored", ScoredSet)}
    write_dataset(tmp_path / "kept", read_records(run_dir / "answers-selected", Example))
    data = page_data((report_run(tmp_path / "kept") / "report.html").read_text())
    values = struct.unpack(
        f"<{len(data['sample']['texts'])}f", base64.b64decode(data["sample"]["index"]["columns"]["value"])
    )
    for text, value in zip(data["sample"]["texts"], values, strict=True):
        score = text["extra"]["score"]  # five candidates, itself included; no agreement was stored
        assert value == pytest.approx((1 + 2 * (5 * score - 1) / 4) / 3, abs=1e-6) and text["id"] in scored
    alone = Example(
        id="a", turns=({"role": "user", "text": "What?"}, {"role": "assistant", "text": "A cup."}), extra={"score": 0.9}
    )
    assert example_row("x", alone)[0].value == 0.9
    assert example_row("x", alone.model_copy(update={"extra": {"vote": 0.8, "k": 5}}))[0].value == pytest.approx(5 / 6)
    assert math.isnan(example_row("x", alone.model_copy(update={"extra": {"score": "B+"}}))[0].value)


@pytest.mark.parametrize("kind", ["of two", "of one"])
def test_rows_that_a_page_cannot_show_stand_back_beside_others(run_dir, tmp_path, kind):
    """As the step of annotation leaves them: its teacher's rows beside the examples."""
    rows = [AnnotatedRow(id="a", image="a.png", cod_caption="c", dd_caption="d")]
    write_dataset(tmp_path / "warmup" / "teacher", rows)
    if kind == "of one":
        with pytest.raises(ValueError, match="has rows that the report cannot show. Give candidates"):
            report_run(tmp_path / "warmup")
        return
    turns = ({"role": "user", "text": "What?"}, {"role": "assistant", "text": "A cup."})
    write_dataset(tmp_path / "warmup" / "chain", [Example(id="a", turns=turns)])
    found = results(report_run(tmp_path / "warmup"))
    assert found["rows"] == 1 and [step["name"] for step in found["funnel"]] == ["chain", "teacher"]


def test_an_evaluation_alone_shows_its_figures(run_dir, tmp_path):
    found = results(report_run(run_dir / "eval-next", tmp_path / "out"))["evaluation"]
    assert found["names"] == ["next"] and not found["compared_with"] and not found["verdict"]
    assert [row["label"] for row in found["rows"]][0] == "question accuracy"


def test_what_has_nothing_to_show_says_so_instead_of_an_empty_page(tmp_path):
    write_json(tmp_path / "parts" / "run.json", {"step": "mini-parts", "config": {}})
    with pytest.raises(ValueError, match="parts has nothing to show yet: it is not finished"):
        report_run(tmp_path / "parts")
    write_json(tmp_path / "parts" / "manifest.json", {"step": "mini-parts", "files": {}})
    with pytest.raises(ValueError, match="parts has no rows, losses or figures that a page could show"):
        report_run(tmp_path / "parts")
    assert not (tmp_path / "parts" / "report").exists()


def test_damaged_rows_cost_the_page_only_themselves(run_dir, tmp_path):
    scored = shutil.copytree(run_dir / "captions-scored", tmp_path / "scored")
    lines = (scored / "shard-00000.jsonl").read_bytes().splitlines(keepends=True)
    lines[:3] = [b'{"id": 5}\n', b"\xff" + lines[1], lines[2][:99] + b"\n"]
    (scored / "shard-00000.jsonl").write_bytes(b"".join(lines))
    select(SelectConfig(input=scored, out_dir=tmp_path / "kept", threshold=0.5, max_dropped_share=0.5))
    found = results(report_run(tmp_path / "kept"))
    (task,) = found["curation"].values()
    assert found["rows"] == 5 and task["rows"] == 8 and task["cuts"]["fixed"]["unreadable_row"] == 3


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


def test_benchmarks_of_several_checkpoints_stand_in_one_table(tmp_path):
    """As `sicog results` writes them: a model that has no score, and a difference that is worse."""
    known = {"value": 61.5, "low": 58.0, "high": 65.0, "of_rows": 61.5, "n": 400, "reason": None}
    none = {"value": None, "low": None, "high": None, "of_rows": None, "n": 0, "reason": "refused <b>"}
    gap = {"value": -4.25, "low": -6.5, "high": -2.0, "p": 0.01}
    rows = [
        {
            "name": "MMStar",
            "unit": "%",
            "paper": {},
            "models": {"base": known, "next": known},
            "differences": {"next": gap},
        },
        {"name": "POPE", "unit": "%", "paper": {}, "models": {"base": known, "next": none}, "differences": {}},
    ]
    table = tmp_path / "table"
    write_json(table / "results.json", {"baseline": "base", "benchmarks": rows, "notes": ["POPE, next: refused <b>"]})
    out = report_run(table, tmp_path / "page")
    page = " ".join((out / "report.html").read_text().split())
    assert "<b>61.5</b><small>58.0 to 65.0</small>" in page and "refused &lt;b&gt;" in page
    assert '<td class="worse"><b>−4.2</b><small>−6.5 to −2.0</small></td>' in page
    assert results(out)["benchmarks"]["rows"][1]["values"]["next"]["value"] is None
    assert report_run(tmp_path, tmp_path / "other")  # found one folder further down, beside a page of its own
    with pytest.raises(ValueError, match="has nothing to show"):
        report_run(out, tmp_path / "of a page")

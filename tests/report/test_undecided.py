"""What no step has decided or measured yet is a dash on the page and null in results.json, never a number."""

import random

import pytest
from report.fake_run import fake_run, fake_training, lines
from report.test_sections import Sections

from sicog.records import CandidateSet, Example, ScoredSet
from sicog.report.discover import report_run
from sicog.report.write import ReportConfig, report
from sicog.stages.storage import read_json, read_records, write_dataset


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fake_run(folder, images=8, items=10)
    scored = read_records(folder / "captions-scored", ScoredSet)
    sets = [CandidateSet(id=s.id, query=s.query, candidates=tuple(c.candidate for c in s.candidates)) for s in scored]
    write_dataset(folder / "sampled" / "answers-default", sets)
    write_dataset(folder / "kept", read_records(folder / "captions-selected", Example))
    return folder


def page_of(folder, out):
    report_run(folder, out)
    return Sections((out / "report.html").read_text()), read_json(out / "results.json")


def styles_of(results):
    (mix,) = results["mix"].values()
    return mix["of"], {style["style"]: style for style in mix["styles"]}


def test_of_sampled_rows_nothing_is_chosen_or_unusable(run_dir, tmp_path):
    page, results = page_of(run_dir / "sampled", tmp_path / "page")
    of, styles = styles_of(results)
    assert of == "candidates" and (styles["cod"]["candidates"], styles["dd"]["candidates"]) == (16, 8)
    for style in styles.values():
        assert [style[key] for key in ("excluded", "chosen", "kept", "mean_score")] == [None] * 4
        assert style["texts"] == style["candidates"]
    words = [len(c.text.split()) for row in rows_of(run_dir) for c in row.candidates if c.style == "dd"]
    assert styles["dd"]["mean_words"] == pytest.approx(sum(words) / len(words), abs=0.01)
    assert "cod 16 – – – –" in page.words["mix"] and "words of the candidates" in page.words["mix"]


def rows_of(run_dir):
    return read_records(run_dir / "sampled" / "answers-default", CandidateSet)


def test_of_scored_rows_nothing_is_chosen(run_dir, tmp_path):
    page, results = page_of(run_dir / "captions-scored", tmp_path / "page")
    of, styles = styles_of(results)
    assert of == "best candidates" and styles["dd"]["excluded"] is not None and styles["dd"]["mean_score"]
    assert {style[key] for style in styles.values() for key in ("chosen", "kept")} == {None}
    assert "words of the best candidates" in page.words["mix"]


def test_a_ranking_is_used_only_where_something_was_selected(run_dir, tmp_path):
    values = fake_run(tmp_path / "run", images=4, items=10)
    scored = {"captions": {"scored": values["captions"]["scored"]}}
    out = report(ReportConfig.model_validate({"out_dir": tmp_path / "page", "truth": values["truth"], **scored}))
    (worth,) = read_json(out / "results.json")["curation"]["captions"]["worth"]
    assert worth["used"] is False and worth["rows_kept"] is None and worth["kept"]["value"] is None
    assert "used in this run" not in (out / "report.html").read_text()


def test_rows_to_train_on_are_counted_as_rows(run_dir, tmp_path):
    page, results = page_of(run_dir / "kept", tmp_path / "page")
    of, styles = styles_of(results)
    assert of == "answers" and sum(style["texts"] for style in styles.values()) == results["rows"]
    assert "style rows mean words" in page.words["mix"] and "chosen" not in page.words["mix"]


def test_headings_have_the_names_of_folders_as_they_are(run_dir, tmp_path):
    report_run(run_dir / "sampled", tmp_path / "page")
    page = (tmp_path / "page" / "report.html").read_text()
    assert "<h3>answers-default</h3>" in page and "<h1>The steps in sampled</h1>" in page


def test_one_of_a_kind_is_singular(tmp_path):
    fake_training(tmp_path / "runs" / "align", 2.0, 1, random.Random(0))
    page = page_of(tmp_path / "runs", tmp_path / "page")[1]
    html = (tmp_path / "page" / "report.html").read_text()
    assert page["training"][0]["updates"] == 1
    assert "<dd>1</dd><dt>update in 1 training</dt>" in html and "1 update, 32 samples" in html


def test_a_speed_that_nothing_measured_is_a_dash(tmp_path):
    fake_training(tmp_path / "align", 2.0, 3, random.Random(0))
    keys = ("seconds", "samples_per_second", "tokens_per_second", "useful_tokens", "mfu")
    lines(tmp_path / "align" / "speed.jsonl", [dict.fromkeys(keys) | {"memory_gib": 0.0}])
    page, _ = page_of(tmp_path / "align", tmp_path / "page")
    assert (
        "– s an update, – samples/s, – tokens/s, – of the positions useful; at most 0.0 GiB" in page.words["training"]
    )

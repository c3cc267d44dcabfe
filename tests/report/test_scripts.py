"""`sicog report` on what the scripts write, folder by folder as in docs/scripts.md, where no recipe is."""

import json
import random

import pytest
from PIL import Image
from report.fake_run import fake_training, lines, page_data

from sicog.curation.build.build import BuildConfig, build
from sicog.curation.curate import CurateConfig, curate
from sicog.records import Candidate, CandidateSet, Query
from sicog.report import lineage, times
from sicog.report import write as page
from sicog.report.discover import report_run
from sicog.report.write import ReportConfig, report
from sicog.stages.provenance import digest_path
from sicog.stages.storage import read_json, write_dataset, write_json
from sicog.tasks import REASONING

RUNS = ("cot-default", "second", "default")
SPEEDS = [
    {"step": i, "seconds": 1.5, "samples_per_second": 4.0, "tokens_per_second": 9.0}
    | {"useful_tokens": 1.0, "mfu": None, "memory_gib": 1.0}
    for i in (1, 2, 3)
]
SLICING = {"scale": 112, "patch_size": 14, "max_slices": 4}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Six questions asked in three runs; the third question is answered three ways, the fourth cut in one run."""
    work = tmp_path_factory.mktemp("work")
    (work / "images").mkdir()
    model = work / "runs" / "reasoner" / "stage0"
    write_json(model / "processor_config.json", {"image_processor": SLICING})
    write_json(model / "run.json", {"step": "train", "config": {"data": {"image_folder": "elsewhere"}}})
    for number, name in enumerate(RUNS):
        out = work / "runs" / "sicog" / f"answers-{name}"
        write_dataset(out, [_asked(work, q, number, digest_path(model)) for q in range(6)])
        config = {"image_folder": str(work / "images"), "checkpoint": str(model)}
        write_json(out / "run.json", {"step": "sample", "config": config, "input_paths": {"checkpoint": str(model)}})
    kept = work / "data" / "kept-answers"
    curate(
        CurateConfig(
            input=(work / "runs" / "sicog" / "answers-*",),
            checkpoint=(model,),
            out_dir=kept,
            scorer="answer",
            by="vote",
            threshold=0.6,
        )
    )
    sources = ({"name": "answers", "path": kept / "selected"},)
    build(BuildConfig.model_validate({"out_dir": work / "data" / "curated", "sources": sources}))
    return work


def _asked(work, q, run, digest):
    Image.new("RGB", (30, 20), "red").save(work / "images" / f"{q}.png")
    query = Query(id=f"q{q}", task="reasoning", images=(f"{q}.png",), question="How many?")
    one = Candidate(
        query_id=query.id,
        style="plain",
        prompt=REASONING.prompt(query, "plain"),
        index=0,
        seed=run,
        text=("one", "two", "three")[run] if q == 2 else "two",
        finish_reason="length" if (q, run) == (3, 0) else "stop",
        n_tokens=1,
        checkpoint=digest,
    )
    return CandidateSet(id=query.id, query=query, candidates=(one,))


@pytest.mark.parametrize(
    ("folder", "rows", "kept"),
    [
        ("data/kept-answers", 6, 4),
        ("data/kept-answers/scored", 6, None),
        ("data/kept-answers/selected", 6, 4),
        ("data/curated", 4, "no curation"),
        ("data", 10, 4),
        ("runs/sicog", 18, "no curation"),
        ("runs/sicog/answers-second", 6, "no curation"),
        ("runs", 18, "no curation"),
    ],
)
def test_each_folder_has_its_page(work, tmp_path, folder, rows, kept):
    """The images are found three steps back, and their slices through the checkpoints that `score` was given."""
    out = report_run(work / folder, tmp_path / "page")
    found, data = read_json(out / "results.json"), page_data((out / "report.html").read_text())
    assert found["rows"] == rows
    assert [task["kept"] for task in found["curation"].values()] == ([] if kept == "no curation" else [kept])
    assert data["slicing"] == SLICING and data["images"].endswith("/images/")
    assert all("src" in picture for picture in data["pictures"].values()) and data["pictures"]


def test_steps_without_a_recipe_have_their_times(work, tmp_path):
    """Of data steps as they noted them; of a training its updates'; nothing of what was never measured."""
    fake_training(tmp_path / "runs" / "stage1", 2.0, 3, random.Random(0))
    lines(tmp_path / "runs" / "stage1" / "speed.jsonl", SPEEDS)
    times.write(tmp_path, tmp_path, ("runs/stage1",))
    (training,) = told(tmp_path)
    assert training["seconds"] == 4.5
    times.write(tmp_path, work, ("data/kept-answers/scored", "data/curated", "runs/sicog/answers-second"))
    steps = {step["name"]: step for step in told(tmp_path)}
    assert list(steps) == ["data/kept-answers/scored", "data/curated"]
    for name, step in steps.items():
        assert step["seconds"] == read_json(work / name / "run.json")["seconds"] >= 0


def told(folder):
    return json.loads((folder / "times.js").read_text().removeprefix("sicogTimes(").removesuffix(");\n"))


def test_a_report_of_a_recipe_with_a_checkpoint_in_curate_finishes(work, tmp_path):
    kept = work / "data" / "kept-answers"
    config = {"out_dir": tmp_path / "report", "reasoning": {"scored": kept / "scored", "selected": kept / "selected"}}
    assert (report(ReportConfig.model_validate(config)) / "report.html").is_file()


@pytest.mark.parametrize("value", [None, "", [], ["gone", "model"], "model", {"path": "model"}, 5])
def test_paths_of_other_steps_may_be_one_several_or_none(tmp_path, value):
    """Whatever stands under a key of a foreign run.json, the page is made."""
    write_json(tmp_path / "model" / "processor_config.json", {"image_processor": SLICING})
    config = {key: value for key in ("checkpoint", "image_folder", "input", "data", "teacher", "endpoint")}
    write_json(tmp_path / "step" / "run.json", {"step": "x", "config": config, "input_paths": {"scored": value}})
    known = value in ("model", ["gone", "model"])
    assert lineage.slicing(tmp_path / "step") == (SLICING if known else None)
    assert lineage.image_folder(tmp_path / "step") == (tmp_path / "model" if known else None)
    assert lineage.scored_folder(tmp_path / "step") == (tmp_path / "model" if known else None)
    assert times._prices(config) is None


@pytest.mark.parametrize("stays", [False, True])
def test_a_report_that_fails_leaves_nothing_behind(work, tmp_path, monkeypatch, stays):
    def fails(*_):
        raise OSError("no space")

    out = tmp_path / "page"
    if stays:
        out.mkdir()
        (out / ".mine").touch()
    monkeypatch.setattr(page, "render", fails)
    with pytest.raises(OSError, match="no space"):
        report_run(work / "data", out)
    assert [p.name for p in tmp_path.rglob("*")] == (["page", ".mine"] if stays else [])

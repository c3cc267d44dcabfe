"""The mini world's steps: what they say, what they count, and whose truth may decide a threshold."""

import io
import sys

import pytest

from sicog.config import validate
from sicog.mini.measure_model import MiniEvalConfig, mini_eval
from sicog.mini.steps import MiniDataStep, MiniSweepConfig, mini_data, mini_sweep
from sicog.mini.truth import read_truth
from sicog.mini.write_world import MiniDataConfig, write_mini_data
from sicog.records import Candidate, Query, ScoredCandidate, ScoredSet
from sicog.stages.storage import read_json, write_dataset, write_json

FEW = {name: 2 for name in ("align", "sft", "warmup_captions", "warmup_reasoning", "unlabelled", "test")} | {"dev": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_mini_data(MiniDataConfig(**FEW), folder)
    return folder


def scored(data, folder, values):
    """Three right answers to questions of the development split, with these votes; all cut for None."""
    rows = []
    questions = [(t.image, q) for t in read_truth(data, "dev").values() for q in t.questions]
    for (image, question), value in zip(questions, values, strict=False):
        query = Query(id=question.id, task="reasoning", images=(image,), question=question.question)
        made = {"query_id": query.id, "style": "direct", "prompt": "p", "index": 0, "seed": 0}
        made |= {"finish_reason": "stop", "n_tokens": 1, "checkpoint": "0" * 64, "text": question.answer}
        best = ScoredCandidate(candidate=Candidate(**made), compared=question.answer, score=value, vote=value)
        if value is None:
            best = best.model_copy(update={"compared": None, "excluded": "cut"})
        rows.append(ScoredSet(id=query.id, query=query, candidates=(best,) * 3, encoder="e"))
    write_dataset(folder, rows)
    return folder


def test_the_bar_shows_counts_and_a_rate_on_a_terminal_only(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "120")
    for kind in (Terminal, io.StringIO):
        monkeypatch.setattr(sys, "stderr", shown := kind())
        mini_data(MiniDataStep(out_dir=tmp_path / kind.__name__, **FEW))
        n = sum(FEW.values())
        assert (f"{n}/{n}" in shown.getvalue() and " images/s" in shown.getvalue()) is (kind is Terminal)


def test_without_a_terminal_there_is_one_line(tmp_path, capsys):
    mini_data(MiniDataStep(out_dir=tmp_path / "data", **FEW))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("  mini-data: images per split: align 2, sft 2") and line.endswith("dev 8, test 2")


@pytest.mark.parametrize("split", ["unlabelled", "test"])
def test_only_the_development_split_decides_a_threshold(tmp_path, split):
    values = {"input": tmp_path, "out_dir": tmp_path, "data": tmp_path, "split": split}
    with pytest.raises(ValueError, match="split: must be 'dev'"):
        validate(MiniSweepConfig, values, "sweep.yaml")


def test_a_sweep_accounts_for_every_row_and_says_when_no_cut_is_within_bounds(data, tmp_path, capsys):
    values = [*[0.9] * 9, 0.5, None]
    config = {"out_dir": tmp_path / "sweep", "data": data, "by": "vote"}
    mini_sweep(MiniSweepConfig(input=scored(data, tmp_path / "a", values), **config))
    counts = read_json(tmp_path / "sweep" / "manifest.json")
    assert (counts["rows_in"], counts["rows_out"], counts["dropped"]) == (11, 10, {"all_cut": 1})
    assert capsys.readouterr().err.splitlines() == [
        "  sweep: no threshold keeps 30 to 70 % of the rows; the nearest, 0.9, keeps 90 %"
    ]
    spread = scored(data, tmp_path / "b", [i / 10 for i in range(10)])
    mini_sweep(MiniSweepConfig(input=spread, **{**config, "out_dir": tmp_path / "other"}))
    assert capsys.readouterr().err == ""


def test_a_sweep_that_loses_rows_stops(data, tmp_path):
    folder = scored(data, tmp_path / "a", [0.1, 0.2, 0.3])
    write_json(folder / "manifest.json", {**read_json(folder / "manifest.json"), "rows_out": 4})
    with pytest.raises(AssertionError, match="4 rows, of which 3 and 0 were read"):
        mini_sweep(MiniSweepConfig(input=folder, out_dir=tmp_path / "sweep", data=data))


def test_an_evaluation_accounts_for_every_row(data, tmp_path, tiny_dir):
    values = {"name": "tiny", "checkpoint": tiny_dir, "data": data, "max_new_tokens": 2}
    counts = read_json(mini_eval(MiniEvalConfig(out_dir=tmp_path / "eval", **values)) / "manifest.json")
    assert (counts["rows_in"], counts["rows_out"]) == (2 * 5 + 2, 12)
    assert counts["dropped"] == counts["failed"] == {}
    for task in ("reasoning", "captioning"):  # as if sampling had read a row more than it wrote
        path = tmp_path / "eval" / task / "manifest.json"
        write_json(path, {**read_json(path), "rows_in": read_json(path)["rows_in"] + 1})
    (tmp_path / "eval" / "manifest.json").unlink()
    with pytest.raises(AssertionError, match="14 rows in, 12 out"):
        mini_eval(MiniEvalConfig(out_dir=tmp_path / "eval", **values))

"""`sicog results`: one table from files as the kit writes them, of our work folders and of the kit's own."""

import json
import sys
from pathlib import Path

import pytest
from openpyxl import Workbook, load_workbook
from typer.testing import CliRunner

from sicog.cli import app
from sicog.evaluation.names import unique_tails
from sicog.evaluation.summarize import results
from sicog.stages.storage import read_json, write_json

N = 40


def sheet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    book = Workbook()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append(list(row.values()))
    book.save(path)


def kit_run(folder, name, right, *, error=None):
    """A folder of the kit's own: multiple choice with `right` of N rows right, and POPE with all."""
    hits = [{"index": i, "hit": int(i < right)} for i in range(N)]
    sheet(folder / name / f"{name}_MMStar_exact_matching_result.xlsx", hits)
    said = [{"index": i, "answer": "Yes", "extracted": "Yes", "score": True, "category": "a"} for i in range(4)]
    sheet(folder / name / f"{name}_POPE_auxmatch.xlsx", said)
    entries = {
        "MMStar": {"metrics": {"split=none|Overall": right / N}, "judge_model": "exact_matching"},
        "POPE": {"metrics": {"split=Overall|Overall": 100.0}, "judge_model": "exact_matching"},
    }
    if error:
        entries["POPE"] = {"error_message": error}
    write_json(folder / name / "status.json", {"model_name": name, "datasets": entries})
    return folder / name


def test_two_models_of_the_kit_in_one_table(tmp_path):
    runs = [kit_run(tmp_path, "base", 20), kit_run(tmp_path, "next", 32, error="no data")]
    text = results(runs, tmp_path / "out", suite="paper")
    lines = text.splitlines()
    assert lines[0] == "| benchmark | unit | n | base | next | next - base (p) | paper: base | paper: sicog |"
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells[:3] == ["MMStar", "%", "40"] and cells[-2:] == ["48.9", "52.5"]
    assert cells[3].startswith("50.0 [") and cells[4].startswith("80.0 [") and cells[5].startswith("+30.0 [+")
    row = read_json(tmp_path / "out" / "results.json")["benchmarks"][0]
    assert row["differences"]["next"]["p"] < 0.01 and 10 < row["differences"]["next"]["low"] < 30
    assert "- POPE, next: no score (no data)." in lines
    assert lines[3].split("|")[4].strip() == "100.0 [100.0, 100.0]" and lines[3].split("|")[5].strip() == "-"
    book = load_workbook(tmp_path / "out" / "results.xlsx").worksheets[0]
    assert [cell.value for cell in book[1]] == [cell.strip() for cell in lines[0].split("|")[1:-1]]
    assert (tmp_path / "out" / "results.csv").read_text().splitlines()[1].startswith("MMStar,%,40,")
    assert results(runs[::-1], tmp_path / "o", suite="paper", baseline="base").splitlines()[0] == lines[0]


def ours(folder, name, right, checkpoint="", **more):
    """A work folder of `sicog eval`."""
    kit_run(folder / name, "sicog", right)
    score = {"data": "MMStar", "family": "choice", "value": 100 * right / N, "reason": None, "paper": {}, "place": 0}
    score |= {"judge": "exact_matching", "limit": None, "kit": {"version": "0.0.20", "commit": None}} | more
    values = {
        "name": name,
        "checkpoint": {"path": checkpoint or f"runs/{name}/x", "digest": "d"},
        "judge": "exact_matching",
        "generation": {"style": "direct", "temperature": 0.0},
    }
    write_json(folder / name / "scores.json", {**values, "benchmarks": {"MMStar": score}})


def test_what_was_not_made_alike_is_said(tmp_path):
    ours(tmp_path, "base", 20)
    ours(tmp_path, "next", 20, limit=40, kit={"version": None, "commit": "abc"}, value=55.0)
    done = CliRunner().invoke(app, ["results", str(tmp_path), "--out", str(tmp_path / "table")])
    assert done.exit_code == 0, done.output
    assert "MMStar: the models differ in kit (0.0.20, abc)." in done.output
    assert "MMStar: only the first 40 rows were asked." in done.output
    assert "MMStar, next: the kit says 55.00, its rows give 50.00" in done.output


def test_checkpoints_in_folders_of_one_name_are_told_apart(tmp_path):
    for model, right in (("base", 20), ("next", 30)):
        ours(tmp_path / model, "stage2", right, f"runs/{model}/stage2")
    ours(tmp_path / "other", "given", 25)
    header = results([tmp_path], tmp_path / "table").splitlines()[0]
    assert header.startswith("| benchmark | unit | n | base/stage2 | next/stage2 | given |")
    assert unique_tails([Path("a/b/c"), Path("d/b/c"), Path("x")]) == ["a/b/c", "d/b/c", "x"]
    assert unique_tails([Path("a/b"), Path("a/b")]) == ["b", "b"]


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match=r"has neither scores.json \(sicog eval\) nor status.json"):
        results([tmp_path], tmp_path / "out")
    run = kit_run(tmp_path, "base", 20)
    with pytest.raises(ValueError, match="was written by the kit alone. Set --suite"):
        results([run], tmp_path / "out")
    with pytest.raises(ValueError, match="no run has the name 'x'. Use one of: base"):
        results([run], tmp_path / "out", suite="paper", baseline="x")
    fewer = kit_run(tmp_path, "fewer", 20)
    sheet(fewer / "fewer_MMStar_exact_matching_result.xlsx", [{"index": 0, "hit": 1}])
    with pytest.raises(ValueError, match="MMStar: base and fewer have different questions"):
        results([run, fewer], tmp_path / "out", suite="paper")
    ours(tmp_path / "a", "same", 1)
    ours(tmp_path / "b", "same", 1)
    with pytest.raises(ValueError, match="have the same name 'same'"):
        results([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    (run / "base_MMStar_exact_matching_result.xlsx").unlink()
    (run / "base_MMStar_exact_matching_result.json").write_text(json.dumps([{"index": 0}]))
    with pytest.raises(ValueError, match="is not a result file of the kit for 'choice'"):
        results([run], tmp_path / "out", suite="paper")


def test_without_openpyxl_all_but_the_sheet_is_written(tmp_path, monkeypatch, caplog):
    entries = {"MMStar": {"metrics": {"split=none|Overall": 0.5}, "judge_model": "exact_matching"}}
    write_json(tmp_path / "m" / "status.json", {"model_name": "m", "datasets": entries})
    hits = "index\thit\n" + "".join(f"{i}\t{i % 2}\n" for i in range(N))
    (tmp_path / "m" / "m_MMStar_exact_matching_result.tsv").write_text(hits)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "MMStar" in results([tmp_path / "m"], tmp_path / "out", suite="paper")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["results.csv", "results.json", "results.md"]
    assert "results.xlsx is skipped because openpyxl is not installed" in caplog.text

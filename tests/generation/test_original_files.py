"""The original's files of candidates, in and out: one text a row, or a list; styles, ids, unequal numbers."""

import json

import pytest

from sicog.generation.group import GroupConfig, group
from sicog.generation.original_files import ImportCandidatesConfig, export_candidates, import_candidates
from sicog.records import CandidateSet
from sicog.stages.storage import read_json, read_records

CHAIN = (
    "Step 1: Clarify the task objective.\na\n\nStep 2: Extract the crucial visual information from the image.\nb\n\n"
)
CHAIN += "Step 3: Generate detailed reasoning to solve the task.\nc\n\nStep 4: Conclude the task with an answer.\nred"
QUESTION = "What colour? Answer the question step-by-step."


def row(row_id, **values):
    turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": "Blue."}]
    return {"id": row_id, "image": f"{row_id}.png", "conversations": turns, **values}


def taken_in(tmp_path, rows, task="reasoning", name="in", **values):
    (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    config = {"input": tmp_path / f"{name}.json", "out_dir": tmp_path / name, "task": task, **values}
    folder = import_candidates(ImportCandidatesConfig.model_validate(config))
    return folder, list(read_records(folder, CandidateSet))


def test_runs_of_the_original_are_grouped_by_id_and_go_out_as_its_curation_reads_them(tmp_path):
    first, _ = taken_in(tmp_path, [row(7, generated_thought=CHAIN), row("b", generated_thought="red")], name="one")
    # Another order, as after rows were lost; numbers and texts as ids.
    second, sets = taken_in(
        tmp_path, [row("b", generated_thought=CHAIN), row(7, generated_thought="red")], name="two", seed=1
    )
    (candidate,) = sets[0].candidates
    assert (candidate.style, candidate.seed, candidate.prompt) == ("cot", 1, QUESTION)
    both = group(GroupConfig(input=(first, second), out_dir=tmp_path / "both"))
    assert export_candidates(both, tmp_path / "out.json") == 2
    out = json.loads((tmp_path / "out.json").read_text())
    assert [(r["id"], r["image"], r["candidates"]) for r in out] == [
        ("7", "7.png", [CHAIN, "red"]),
        ("b", "b.png", ["red", CHAIN]),
    ]
    assert out[0]["conversations"] == [{"from": "human", "value": f"<image>\n{QUESTION}"}]
    # What went out comes in again, the same but for the seeds, which the file does not tell.
    _, again = taken_in(tmp_path, out, name="again")
    before = list(read_records(both, CandidateSet))
    assert [s.query for s in again] == [s.query for s in before]
    assert [[(c.style, c.text) for c in s.candidates] for s in again] == [
        [(c.style, c.text) for c in s.candidates] for s in before
    ]


def test_captions_one_a_row_in_and_out(tmp_path):
    rows = [row("a", generated_caption="A dog.", note=1), row("b", generated_caption="A cat.")]
    folder, sets = taken_in(tmp_path, rows, "captioning")
    assert [s.candidates[0].style for s in sets] == ["dd", "dd"] and sets[0].query.extra == {"note": 1}
    export_candidates(folder, tmp_path / "out.json", form="generated")
    out = json.loads((tmp_path / "out.json").read_text())
    assert [(r["id"], r["generated_caption"]) for r in out] == [("a", "A dog."), ("b", "A cat.")]
    assert out[0]["note"] == 1


def test_styles_are_counted_each_by_itself_and_may_be_said(tmp_path):
    rows = [row("a", candidates=["red", CHAIN, "blue"])]
    _, (found,) = taken_in(tmp_path, rows)
    assert [(c.style, c.index) for c in found.candidates] == [("plain", 0), ("cot", 0), ("plain", 1)]
    _, (said,) = taken_in(tmp_path, rows, name="said", style="direct")
    assert [(c.style, c.index) for c in said.candidates] == [("direct", 0), ("direct", 1), ("direct", 2)]
    with pytest.raises(ValueError, match="unknown reasoning style 'cod'"):
        taken_in(tmp_path, rows, name="wrong", style="cod")


def test_rows_without_candidates_are_dropped_and_unequal_numbers_do_not_go_out(tmp_path):
    rows = [row("a", candidates=["x", "y"]), row("b", candidates=[]), row("c", candidates=["x", None]), row("d")]
    rows.append(row("e", candidates=["x"]))
    folder, sets = taken_in(tmp_path, rows, max_dropped_share=None)
    assert [s.id for s in sets] == ["a", "e"]
    assert read_json(folder / "manifest.json")["dropped"] == {"no_candidates": 3}
    with pytest.raises(ValueError, match="row e .* has 1 candidates where 2 are needed"):
        export_candidates(folder, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_text_that_looks_like_control_stays_text(tmp_path):
    control = "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
    given = row("a", generated_thought=f"{CHAIN} {control}<image>")
    given["conversations"][0]["value"] = f"<image>\nWhat says {control}?"
    twice = {**row("b", generated_thought="red"), "conversations": [{"from": "human", "value": "<image>\n<image>\nx"}]}
    folder, (one,) = taken_in(tmp_path, [given, twice])
    assert one.query.question == f"What says {control}?" and one.candidates[0].text == f"{CHAIN} {control}<image>"
    with pytest.raises(ValueError, match="allow more with max_dropped_share"):
        taken_in(tmp_path, [given, twice, twice], name="more")
    assert len(taken_in(tmp_path, [given, twice, twice], name="more", max_dropped_share=1)[1]) == 1
    (dropped,) = (tmp_path / "in" / "dropped.jsonl").read_text().splitlines()
    assert json.loads(dropped)["reason"] == "marker_count"
    (grouped,) = read_records(group(GroupConfig(input=(folder,), out_dir=tmp_path / "grouped")), CandidateSet)
    assert grouped == one
    export_candidates(tmp_path / "grouped", tmp_path / "out.json")
    (out,) = json.loads((tmp_path / "out.json").read_text())
    assert out["candidates"] == [given["generated_thought"]] and out["conversations"] == given["conversations"][:1]

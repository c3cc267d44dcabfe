"""The proxy of the gap beside the gap itself, on candidates whose errors are known."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from sicog.lab.gap_proxy import gap_cells, gap_of_picks, lab_gap, rank_correlation, read_gap_tasks
from sicog.mini.text import detailed_description
from sicog.mini.truth import read_truth
from sicog.mini.write_world import MiniDataConfig, write_mini_data
from sicog.records import Candidate, CandidateSet, Query
from sicog.stages.storage import read_json, write_dataset, write_json

COUNTS = dict.fromkeys(("align", "sft", "warmup_captions", "warmup_reasoning", "unlabelled", "test"), 1)
MADE = {"prompt": "?", "seed": 0, "finish_reason": "stop", "n_tokens": 1, "checkpoint": "a"}


def sampled(query: Query, texts: list[str], style: str) -> CandidateSet:
    made = [Candidate(query_id=query.id, index=i, text=t, style=style, **MADE) for i, t in enumerate(texts)]
    return CandidateSet(id=query.id, query=query, candidates=tuple(made))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose candidates are right three times in four and whose student is right every second time."""
    run, rng = tmp_path_factory.mktemp("run"), random.Random(0)
    write_mini_data(MiniDataConfig(**COUNTS, dev=60, dev_questions=5, seed=3), run / "data")
    truths = read_truth(run / "data", "dev")
    wrong = detailed_description(next(iter(truths.values())).scene)
    sets: dict[str, list[CandidateSet]] = {"captions": [], "captions-base": [], "answers": [], "answers-base": []}
    for number, (key, truth) in enumerate(truths.items()):
        query = Query(id=key, task="captioning", images=(truth.image,), question="?")
        text = detailed_description(truth.scene)
        sets["captions"].append(sampled(query, [text if rng.random() < 0.75 else wrong for _ in range(6)], "dd"))
        sets["captions-base"].append(sampled(query, [text if number % 2 else wrong], "dd"))
        for place, question in enumerate(truth.questions):
            query = Query(id=question.id, task="reasoning", images=(truth.image,), question=question.question)
            answers = [question.answer if rng.random() < 0.75 else f"no {k}" for k in range(6)]
            sets["answers"].append(sampled(query, answers, "direct"))
            answer = question.answer if (number + place) % 2 else "nothing"
            sets["answers-base"].append(sampled(query, [answer], "direct"))
    plan = []
    for name, rows in sets.items():
        write_dataset(run / name, rows)
    for part, places in (("captions-1", slice(0, 4)), ("captions-2", slice(4, 6))):  # pooled, as two samplers' are
        write_dataset(
            run / part, [row.model_copy(update={"candidates": row.candidates[places]}) for row in sets["captions"]]
        )
    grammar = "sicog.mini.grammar:GRAMMAR"
    for name, score, kept in (("captions", "claims", "settle"), ("answers", "score", "select")):
        scored, labels = str(run / f"{name}-scored"), str(run / f"{name}-kept")
        write_json(run / f"{name}-kept" / "manifest.json", {})
        given = [run / "captions-1", run / "captions-2"] if name == "captions" else [run / name]
        scoring = {"out_dir": scored, "input": [str(path) for path in given], "grammar": grammar, "measure": "f1"}
        settling = {"out_dir": labels, "input": scored, "how": "merge", "support": 0.3, "grammar": grammar}
        gap = {"labels": labels, "greedy": str(run / f"{name}-base"), "data": str(run / "data"), "out_dir": "x"}
        gap |= {"grammar": grammar} if name == "captions" else {}
        plan += [
            {"name": f"{name}-{k}", "verb": verb, "config": c}
            for k, (verb, c) in enumerate(((score, scoring), (kept, settling), ("mini-gap", gap)))
        ]
    write_json(run / "recipe.json", plan)
    return run


def test_gap_and_proxy_by_task_kind_and_number(run_dir: Path) -> None:
    captions, answers = read_gap_tasks(run_dir)
    assert (captions.name, answers.name) == ("captioning", "reasoning")
    found = {(c.task, c.kind, c.k): c for task in (captions, answers) for c in gap_cells(task)}
    assert {k for _, _, k in found} == {4, 6} and len(found) == 2 * (1 + 6)
    whole = found["reasoning", "all", 6]
    assert whole.rows == 300 and 0.35 < whole.gap.value < 0.55  # nearly all votes are right, half of the greedy texts
    assert 0.2 < whole.proxy.value < 0.55 and whole.gap.low < whole.gap.value < whole.gap.high
    assert found["captioning", "all", 6].gap.value > 0.2
    votes = {row.id: row.candidates[0].text for row in answers.sets}
    assert gap_of_picks(answers, votes).value == pytest.approx(0.25, abs=0.08)


def test_the_table_is_printed_and_kept(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = lab_gap(run_dir, tmp_path / "gap.json")
    kept = read_json(tmp_path / "gap.json")
    assert len(kept["cells"]) == len(found) == 14 and -1 <= kept["rank_correlation"] <= 1
    assert "rank correlation of gap and proxy over these 14" in capsys.readouterr().out
    assert "| reasoning | all | 6 | 300 |" in (tmp_path / "gap.md").read_text()


def test_a_run_that_has_measured_none_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "recipe.json", [])
    with pytest.raises(ValueError, match="has no measured gap yet"):
        lab_gap(tmp_path)


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 99]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 3], [1, 3, 3, 9]) == pytest.approx(1)
    assert math.isnan(rank_correlation([1, 2], [1, 2])) and math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))

"""How many rows steps read and write, before they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sicog.estimates.counts import Counts
from sicog.records import CandidateSet, Example, Query, Turn
from sicog.runs.recipe import load_recipe
from sicog.runs.verbs import VERBS, load
from sicog.stages.storage import write_dataset

RECIPE = """
run_dir: run
steps:
  grouped: {run: group, config: {input: [a, b]}}
  scored: {run: score, config: {input: "${grouped}", scorer: answer}}
  kept: {run: select, config: {input: "${scored}", by: vote, threshold: 0.5}}
"""


def test_candidates_of_several_runs_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, n in (("a", 3), ("b", 5)):
        queries = [Query(id=str(i), task="reasoning", question="How many?") for i in range(n)]
        write_dataset(tmp_path / name, [CandidateSet(id=q.id, query=q, candidates=()) for q in queries])
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(Path("r.yaml"))
    counts = Counts(recipe)
    found = {step.name: counts.of(step) for step in recipe.steps}
    assert [str(found[name].given) for name in ("grouped", "scored", "kept")] == ["5", "<= 5", "<= 5"]
    assert [str(found[name].gives) for name in ("grouped", "scored")] == ["<= 5", "<= 5"]


MIXED = """
run_dir: run
steps:
  shares: {run: mix, config: {total: 40, sources: [{path: a, share: 0.25}, {path: b, share: 0.75}]}}
  counts: {run: mix, config: {sources: [{path: a, count: 5}, {path: b, at_most: 8}]}}
  taken: {run: build, config: {sources: [{name: a, path: a, take: "first:4", weight: 2}, {name: c, path: c, count: 9}]}}
  whole: {run: build, config: {total: 12, sources: [{name: a, path: a, share: 1}]}}
  lacking: {run: build, config: {total: 70, sources: [{name: a, path: a, share: 1}]}}
"""


def test_every_way_to_say_an_amount_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    turns = (Turn(role="user", text="Hi."), Turn(role="assistant", text="Yes."))
    for name, n in (("a", 20), ("b", 30)):
        write_dataset(tmp_path / name, [Example(id=str(i), turns=turns) for i in range(n)])
    (tmp_path / "r.yaml").write_text(MIXED)
    recipe = load_recipe(Path("r.yaml"))
    counts = Counts(recipe)
    found = {step.name: str(counts.of(step).gives) for step in recipe.steps}
    assert found == {"shares": "40", "counts": "13", "taken": "17", "whole": "12", "lacking": "70"}


def test_what_a_verb_names_exists() -> None:
    for verb in VERBS.values():
        for name in (verb.config, verb.function, verb.estimator, verb.counter):
            assert name is None or callable(load(name)), f"{verb.name}: {name}"

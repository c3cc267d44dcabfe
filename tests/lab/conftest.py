"""A made run of the mini world, small enough to know by heart."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from sicog.records import Candidate, Query, ScoredCandidate, ScoredSet
from sicog.stages.storage import write_dataset, write_json

MADE = {"style": "direct", "prompt": "?", "seed": 0, "finish_reason": "stop", "n_tokens": 1, "checkpoint": "a"}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of one scene and three questions about it, two of them with a choice."""
    scene = {"id": "s0", "width": 9, "height": 9, "background": "white", "things": []}
    questions = [
        {
            "id": f"s0-q{i}",
            "type": "count",
            "kind": "count",
            "question": "How many?",
            "answer": "two",
            "held_out": False,
        }
        for i in range(3)
    ]
    line = {"id": "s0", "image": "0.png", "held_out": False, "scene": scene, "questions": questions}
    truth = tmp_path / "truth.jsonl"
    truth.write_bytes(orjson.dumps(line) + b"\n")
    texts = [("two", "2", "three"), ("three", "three", "two"), ("two",)]
    sets = []
    for question, answers in zip(questions, texts, strict=True):
        query = Query(id=question["id"], task="reasoning", question="How many?", images=("0.png",))
        made = [Candidate(query_id=query.id, index=i, text=t, **MADE) for i, t in enumerate(answers)]
        scored = tuple(ScoredCandidate(candidate=c, compared=c.text, score=0.5) for c in made)
        sets.append(ScoredSet(id=query.id, query=query, candidates=scored, encoder="none"))
    write_dataset(tmp_path / "scored", sets)
    report = {"captions": None, "reasoning": {"scored": str(tmp_path / "scored")}, "truth": str(truth)}
    report["out_dir"] = str(tmp_path / "report")
    write_json(tmp_path / "recipe.json", [{"name": "report", "verb": "report", "config": report}])
    write_json(tmp_path / "scored" / "run.json", {"config": {}})
    return tmp_path

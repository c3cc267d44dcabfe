"""Score a block of candidate sets: text to compare, embedding scores, votes on final answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sicog.answers import final_answer, without_boilerplate
from sicog.chains import ChainError
from sicog.curation.score.self_consistency import self_consistency, votes
from sicog.curation.vectors.vector_cache import Embedding
from sicog.records import Candidate, CandidateSet, ScoredCandidate, ScoredSet
from sicog.tasks import TASKS

Scorer = Literal["embedding", "answer", "both"]
NO_ENCODER = "none"


@dataclass(frozen=True)
class ScoreSets:
    """Process of `score`: embeds all texts of a block together, scores each set on its own.

    embedder: None when only answers count. checkpoints: allowed digests; empty allows all.
    """

    embedder: Embedding | None
    scorer: Scorer = "embedding"
    checkpoints: frozenset[str] = frozenset()

    def __call__(self, block: Sequence[CandidateSet]) -> list[tuple[ScoredSet]]:
        rows = [[comparable_candidate(row, c, self.checkpoints) for c in row.candidates] for row in block]
        marks = self._similarities(block, rows)
        return [(self._scored_set(row, candidates, marks),) for row, candidates in zip(block, rows, strict=True)]

    def _similarities(
        self, block: Sequence[CandidateSet], rows: Sequence[Sequence[ScoredCandidate]]
    ) -> Iterator[tuple[float, float | None]] | None:
        """Return score and agreement of all compared candidates, in order."""
        if self.embedder is None:
            return None
        texts = [_embedding_text(row, c) for row, candidates in zip(block, rows, strict=True) for c in candidates]
        sizes = [sum(c.compared is not None for c in candidates) for candidates in rows]
        embeddings_ND = self.embedder.embed([text for text in texts if text is not None])
        found = self_consistency(embeddings_ND, sizes)
        agreements = (None if np.isnan(a) else float(a) for a in found.agreement)
        return zip(map(float, found.score), agreements, strict=True)

    def _scored_set(
        self,
        row: CandidateSet,
        candidates: Sequence[ScoredCandidate],
        marks: Iterator[tuple[float, float | None]] | None,
    ) -> ScoredSet:
        given: list[dict[str, Any]] = [{} for _ in candidates]
        compared = [i for i, c in enumerate(candidates) if c.compared is not None]
        if marks is not None:
            for i in compared:
                given[i]["score"], given[i]["agreement"] = next(marks)
        if TASKS[row.query.task].votes:
            answers = [final_answer(candidates[i].compared or "", row.query.question) for i in compared]
            weights = [given[i]["agreement"] or 0.0 for i in compared] if self.scorer == "both" else None
            cast = votes(answers, weights) if self.scorer != "embedding" else [(None, None)] * len(compared)
            for i, answer, (vote, margin) in zip(compared, answers, cast, strict=True):
                given[i] |= {"answer": answer, "vote": vote, "margin": margin}
        elif self.scorer != "embedding":
            raise ValueError(
                f"row {row.id}: scorer: {self.scorer} needs short answers, but {row.query.task} has none. "
                f"Use scorer: embedding"
            )
        encoder = self.embedder.description if self.embedder else NO_ENCODER
        scored = tuple(c.model_copy(update=values) for c, values in zip(candidates, given, strict=True))
        return ScoredSet(id=row.id, query=row.query, candidates=scored, encoder=encoder)


def comparable_candidate(
    row: CandidateSet, candidate: Candidate, checkpoints: frozenset[str] = frozenset()
) -> ScoredCandidate:
    """Return the candidate with the text to compare, or with the reason why it cannot be chosen.

    Raises `ValueError` for an unknown style, and for a checkpoint that is not among these digests (unless empty).
    """
    if checkpoints and candidate.checkpoint not in checkpoints:
        known = " or ".join(sorted(digest[:12] for digest in checkpoints))
        raise ValueError(
            f"row {row.id}: candidate {candidate.index} was written by checkpoint {candidate.checkpoint[:12]}, not "
            f"by {known}, given as `checkpoint`"
        )
    task = TASKS[row.query.task]
    if candidate.style not in task.styles:
        raise ValueError(
            f"row {row.id}: {candidate.style!r} is not a style of {task.name}. Use one of: {', '.join(task.styles)}"
        )
    if candidate.window is not None:
        return ScoredCandidate(candidate=candidate, compared=None, excluded="window")
    if candidate.finish_reason == "length":
        return ScoredCandidate(candidate=candidate, compared=None, excluded="cut")
    if not candidate.text.strip():
        return ScoredCandidate(candidate=candidate, compared=None, excluded="empty")
    try:
        text = task.compared(candidate.text, candidate.style)
    except ChainError:
        return ScoredCandidate(candidate=candidate, compared=None, excluded="unparsed")
    return ScoredCandidate(candidate=candidate, compared=text)


def _embedding_text(row: CandidateSet, candidate: ScoredCandidate) -> str | None:
    """Return the text to embed; a conclusion loses its `The answer is`."""
    if candidate.compared is None or not TASKS[row.query.task].votes:
        return candidate.compared
    return without_boilerplate(candidate.compared)

"""Comparison keys of rows: names of images, digests of words, scores. About 50 bytes per row."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from sicog.curation.numbered_rows import Rows
from sicog.curation.overlap.benchmarks import BenchmarkTexts
from sicog.curation.overlap.clusters import Numbers
from sicog.curation.score.columns import columns_in_memory
from sicog.curation.select.threshold import stored_agreement
from sicog.curation.select.verdicts import Rule, agreement_at, best_candidates, is_compared
from sicog.curation.words import Hashes, combine_hashes, digest64, word_hashes, words
from sicog.records import CandidateSet, Example, Query, Record, ScoredSet
from sicog.tasks import bare_question

_BLOCK = 256


@dataclass(frozen=True)
class ComparedRow:
    """The compared parts of a row: images, the user's words, all turns in order, and its score (nan for none).

    The score is the agreement with the other candidates, which does not depend on their number.
    """

    images: tuple[str, ...]
    asked: str
    turns: tuple[str, ...]
    score: float = float("nan")


def images_of(record: Record) -> tuple[str, ...]:
    """Return the names of a record's images."""
    if isinstance(record, Example | Query):
        return record.images
    assert isinstance(record, ScoredSet | CandidateSet)
    return record.query.images


def compared_rows(records: Sequence[Record]) -> list[ComparedRow]:
    """Return the compared parts of records.

    Of a set of candidates the best one counts, by score or else by vote; without either the first one.
    """
    best = iter(_best([record for record in records if isinstance(record, ScoredSet)]))
    return [
        _of_set(record, *next(best)) if isinstance(record, ScoredSet) else _compared_row(record) for record in records
    ]


def _best(rows: Sequence[ScoredSet]) -> Iterator[tuple[int, float]]:
    """Yield the place of each row's best candidate, -1 for none, and its agreement with the others, nan for none."""
    columns = columns_in_memory(rows)
    by_score, by_vote = (best_candidates(columns, Rule(by, None, None, 1)) for by in ("score", "vote"))
    no_score = columns.per_row(is_compared(columns) & ~np.isnan(columns.score)) == 0
    scores, votes = agreement_at(columns, "score", by_score), agreement_at(columns, "vote", by_vote)
    yield from zip(
        np.where(no_score, by_vote, by_score).tolist(), np.where(no_score, votes, scores).tolist(), strict=True
    )


def _of_set(row: ScoredSet, place: int, score: float) -> ComparedRow:
    query, text = row.query, row.candidates[place].candidate.text if place >= 0 else ""
    return ComparedRow(query.images, query.question, (bare_question(query.question), text), score)


def _compared_row(record: Record) -> ComparedRow:
    if isinstance(record, Example):
        asked = "\n".join(turn.text for turn in record.turns if turn.role != "assistant")
        turns = tuple(bare_question(t.text) if t.role == "user" else t.text for t in record.turns)
        return ComparedRow(record.images, asked, turns, _or_nan(stored_agreement(record.origin)))
    if isinstance(record, Query):
        return ComparedRow(record.images, record.question, (record.question,))
    assert isinstance(record, CandidateSet)
    query, text = record.query, record.candidates[0].text if record.candidates else ""
    return ComparedRow(query.images, query.question, (bare_question(query.question), text))


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


@dataclass(frozen=True)
class RowMarks:
    """Comparison keys of R rows of several sources, one source after the other; I images in total.

    starts: int64 [R + 1], start of a row's images in `images`; images: uint64 [I], digests of names.
    asked, said: uint64 [R], digests of the words of the user and of all turns. scores: float64 [R], nan for none.
    overlaps: rows whose words overlap with a benchmark, with the detail.
    """

    starts: Numbers
    images: Hashes
    asked: Hashes
    said: Hashes
    scores: np.ndarray
    overlaps: dict[int, str]

    def keys(self, values_I: np.ndarray) -> Hashes:
        """Return uint64 [R]: one key for the values of all images of a row in order; 0 for a row without images."""
        counts = np.diff(self.starts)
        keys = np.zeros(len(counts), dtype=np.uint64)
        for k in range(int(counts.max(initial=0))):
            rows = np.flatnonzero(counts > k)
            keys[rows] = combine_hashes(keys[rows], values_I[self.starts[rows] + k].astype(np.uint64))
        return keys

    def owners(self) -> Numbers:
        """Return int64 [I]: the row of each image."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def mark_rows(sources: Sequence[Rows], benchmarks: BenchmarkTexts | None) -> RowMarks:
    """Read all rows once."""
    counts, images, asked, said, scores = array("I"), array("Q"), array("Q"), array("Q"), array("d")
    overlaps: dict[int, str] = {}
    rows = (record for source in sources for record in source.read(range(len(source))))
    while block := compared_rows(list(islice(rows, _BLOCK))):
        heard = [[words(text) for text in row.turns] for row in block]
        if benchmarks is not None:
            found = benchmarks.find([(not row.images, turns) for row, turns in zip(block, heard, strict=True)])
            overlaps.update((len(counts) + k, detail) for k, detail in found.items())
        for row, turns in zip(block, heard, strict=True):
            counts.append(len(row.images))
            images.extend(digest64(name) for name in row.images)
            asked.append(digest64(" ".join(words(row.asked))))
            said.append(digest64(" ".join(word for turn in turns for word in turn)))
            scores.append(row.score)
    starts = np.concatenate(([0], np.cumsum(np.frombuffer(counts, dtype=np.uint32), dtype=np.int64)))
    names, users, all_said = (np.frombuffer(column, dtype=np.uint64) for column in (images, asked, said))
    return RowMarks(starts, names, users, all_said, np.frombuffer(scores, dtype=np.float64), overlaps)


def turn_hashes(sources: Sequence[Rows], rows: Numbers) -> Iterator[Hashes]:
    """Yield the hashed words of all turns of these rows, numbered over all sources, ascending."""
    first = 0
    for source in sources:
        here = rows[(rows >= first) & (rows < first + len(source))] - first
        records = source.read(here.tolist())
        while block := compared_rows(list(islice(records, _BLOCK))):
            yield from (word_hashes([word for text in row.turns for word in words(text)]) for row in block)
        first += len(source)

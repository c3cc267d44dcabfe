"""Convert records for the page's browser: texts to show, and facts to filter by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from sicog.records import Candidate, CandidateSet, Example, PreferencePair, ScoredCandidate, ScoredSet
from sicog.report.curated import OPEN, SetMarks, comparable_value_of
from sicog.report.known_truth import Truth
from sicog.stages.storage import read_records, shards

Text = dict[str, Any]


class UnknownRowsError(ValueError):
    """The page cannot show rows of this dataset."""


class Facts(NamedTuple):
    """Facts to filter a row by.

    `value`: nan for none. `words`: of the chosen text, of sampled rows the longest text. `truest`: None if unknown.
    `support`: lowest support of a claim of the chosen text, nan without claims.
    """

    id: str
    set: str
    task: str
    state: str = OPEN
    reason: str | None = None
    style: str | None = None
    image: str | None = None
    value: float = math.nan
    k: int = 0
    words: int = 0
    truth: float = math.nan
    truest: bool | None = None
    support: float = math.nan


def scored_row(
    name: str, row: ScoredSet, marks: SetMarks, detail: str, by: str, truth: Truth | None
) -> tuple[Facts, Text]:
    """Convert a scored set and its selection. `by`: the value that the threshold applies to."""
    chosen = row.candidates[marks.picked] if marks.picked is not None else None
    text = _question(name, row.query.task, row.id, row.query.images, row.query.question)
    text |= {"chosen": marks.picked, "state": marks.state, "encoder": row.encoder}
    text["candidates"] = [_scored_text(c, row, truth) for c in row.candidates]
    if marks.reason:
        text |= {"reason": marks.reason, "detail": detail}
    if truth:
        text["truth"] = truth.words(row.query)
    of_chosen = marks.truth.get(by, math.nan)
    facts = Facts(
        *(row.id, name, row.query.task, marks.state, marks.reason, marks.style),
        image=row.query.images[0] if row.query.images else None,
        value=marks.value.get(by, math.nan),
        k=len(row.candidates),
        words=len(chosen.candidate.text.split()) if chosen else 0,
        truth=of_chosen,
        truest=None if math.isnan(of_chosen) else of_chosen == marks.truest,
        support=_lowest_support([claim.support for claim in chosen.claims] if chosen else []),
    )
    return facts, text


def sampled_row(name: str, row: CandidateSet) -> tuple[Facts, Text]:
    """Convert a candidate set without scores; no candidate is chosen."""
    text = _question(name, row.query.task, row.id, row.query.images, row.query.question)
    text["candidates"] = [_candidate(c) for c in row.candidates]
    image = row.query.images[0] if row.query.images else None
    words = max((len(c.text.split()) for c in row.candidates), default=0)
    return Facts(row.id, name, row.query.task, image=image, k=len(row.candidates), words=words), text


def example_row(name: str, row: Example) -> tuple[Facts, Text]:
    """Convert a training row, with all its turns."""
    text = _question(name, row.source, row.id, row.images, "")
    text["turns"] = [[turn.role, turn.text] for turn in row.turns]
    if row.extra:
        text["extra"] = {key: value for key, value in row.extra.items() if key != "claims"}
    if claims := row.extra.get("claims"):
        text["claims"] = [[claim["key"], claim.get("support"), claim.get("seen")] for claim in claims]
    origin = row.origin
    facts = Facts(
        *(row.id, name, row.source),
        style=origin.style or None,
        image=row.images[0] if row.images else None,
        value=comparable_value_of(origin),
        words=sum(len(turn.text.split()) for turn in row.turns if turn.role == "assistant"),
        support=_lowest_support([claim.get("support") for claim in claims or []]),
    )
    return facts, text


def _lowest_support(supports: Sequence[float | None]) -> float:
    return min((value for value in supports if value is not None), default=math.nan)


def pair_row(name: str, row: PreferencePair) -> tuple[Facts, Text]:
    """Convert a preference pair: chosen and rejected answer as two candidates."""
    text = _question(name, "", row.id, row.images, row.prompt[-1].text if row.prompt else "")
    marks = (("chosen", row.chosen, row.chosen_score), ("rejected", row.rejected, row.rejected_score))
    text["candidates"] = [{"style": n, "text": t} | ({} if s is None else {"score": s}) for n, t, s in marks]
    text["chosen"] = 0
    value = math.nan if row.chosen_score is None else row.chosen_score
    image, words = row.images[0] if row.images else None, len(row.chosen.split())
    return Facts(row.id, name, "pair", image=image, value=value, k=2, words=words), text


def read(name: str, folder: Path) -> Iterator[tuple[Facts, Text]]:
    """Yield the rows of any dataset folder except a scored one; the first row determines the kind.

    Raises `ValueError` for other folders.
    """
    kind = kind_of(folder)
    if kind == "sampled":
        yield from (sampled_row(name, row) for row in read_records(folder, CandidateSet))
    elif kind == "examples":
        yield from (example_row(name, row) for row in read_records(folder, Example))
    elif kind == "pairs":
        yield from (pair_row(name, row) for row in read_records(folder, PreferencePair))
    elif kind is not None:
        raise ValueError(f"rows.{name}: {folder} has scored sets. Give it as captions.scored or reasoning.scored")


def kind_of(folder: Path) -> str | None:
    """Return scored, sampled, pairs or examples; None for an empty folder. Raises `ValueError` for other rows."""
    for shard in shards(folder):
        with shard.open("rb") as file:
            line = file.readline()
        if not line:
            continue
        try:
            keys = set(orjson.loads(line))
        except (orjson.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{shard}:1 is not valid JSON: {error}") from error
        known = {"scored": {"candidates", "encoder"}, "sampled": {"candidates"}, "examples": {"turns"}}
        known |= {"pairs": {"prompt", "chosen", "rejected"}}
        if kind := next((kind for kind, needed in known.items() if needed <= keys), None):
            return kind
        raise UnknownRowsError(
            f"{shard} has rows that the report cannot show. Give candidates, scored sets, examples or pairs"
        )
    return None


def _question(name: str, task: str, row_id: str, images: tuple[str, ...], question: str) -> Text:
    text: Text = {"id": row_id, "set": name, "task": task}
    return text | ({"images": list(images)} if images else {}) | ({"question": question} if question else {})


def _candidate(candidate: Candidate) -> Text:
    text: Text = {"style": candidate.style, "text": candidate.text, "tokens": candidate.n_tokens}
    if candidate.finish_reason != "stop":
        text["finish"] = candidate.finish_reason
    if candidate.corruptions:
        text["corruptions"] = ", ".join(c.method for c in candidate.corruptions)
    return text


def _scored_text(scored: ScoredCandidate, row: ScoredSet, truth: Truth | None) -> Text:
    text = _candidate(scored.candidate)
    marks = ("excluded", "score", "agreement", "answer", "vote", "margin")
    text |= {mark: value for mark in marks if (value := getattr(scored, mark)) is not None}
    if scored.compared is not None and scored.compared != scored.candidate.text:
        text["compared"] = scored.compared
    if scored.claims:
        text["claims"] = _claims(scored)
    if truth and scored.compared is not None:
        text["truth"] = round(truth.of(row.query, scored.compared), 6)
    return text


def _claims(scored: ScoredCandidate) -> list[list[Any]]:
    """Return [start, end, support, seen] of each claim, in the shown text: the compared part, else the whole text."""
    text = scored.candidate.text
    shown = scored.compared if scored.compared is not None else text
    offset = max(0, text.rfind(shown))
    inside = [(c, c.start - offset, c.end - offset) for c in scored.claims]
    return [[start, end, c.support, c.seen] for c, start, end in inside if 0 <= start < end <= len(shown)]

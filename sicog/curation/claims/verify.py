"""Check claims with questions to a model.

`sicog ask-claims` writes the questions, `sicog sample` answers them, `sicog check-claims` counts the answers. Several
samples may share the same mistake of a description. A separate question makes the model look at one thing again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from sicog.answers import final_answer
from sicog.chains import ChainError
from sicog.config import Config
from sicog.curation.claims.readers import load_grammar
from sicog.curation.score.columns import columns_of
from sicog.records import CandidateSet, Claim, Query, ScoredCandidate, ScoredSet
from sicog.stages.reader import FolderSource
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Outcome
from sicog.stages.storage import read_records
from sicog.tasks import TASKS

ASK, CHECK = "ask-claims", "check-claims"
TASK = "reasoning"
Asked = tuple[str, str]  # a question, and the answer that confirms the claim


class AskConfig(Config):
    """Config of `sicog ask-claims`."""

    volatile: ClassVar[frozenset[str]] = frozenset({"max_dropped_share"})
    input: Path
    """Scored sets with claims."""
    out_dir: Path
    grammar: str | None = None
    """Grammar whose `ask` writes the question, as `module:NAME`; null: uses `question`."""
    question: str = "Is this true of the image? {key}"
    """Question without a grammar. It must contain `{key}`; the answer `yes` confirms the claim."""
    least: float = Field(default=0.0, ge=0, le=1)
    """Minimum support of a claim to ask about."""
    most: float = Field(default=1.0, ge=0, le=1)
    """Maximum support of a claim to ask about."""
    max_dropped_share: float = Field(default=0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _check_question(self) -> AskConfig:
        if self.least > self.most:
            raise ValueError(
                f"least {self.least:g} is larger than most {self.most:g}, so no claim qualifies. "
                "Lower least or raise most"
            )
        if self.grammar is not None:
            _question_writer(self.grammar)
        elif "{key}" not in self.question:
            raise ValueError("{key} is missing in question. Put it where the claim shall stand")
        return self


class CheckConfig(Config):
    """Config of `sicog check-claims`. A claim without a question stays unchecked."""

    volatile: ClassVar[frozenset[str]] = frozenset({"max_dropped_share"})
    input: Path
    """The scored sets with claims."""
    asked: Path
    """The questions that `ask-claims` wrote."""
    answers: Path
    """The answers that `sample` wrote for `asked`."""
    out_dir: Path
    max_dropped_share: float = Field(default=0.05, ge=0, le=1)


def ask_claims(config: AskConfig) -> Path:
    """Write the dataset `out_dir` of `Query`, one question per distinct claim of a row; returns it."""
    return run_stage(
        Stage(
            step=ASK,
            out_dir=config.out_dir,
            source=FolderSource(config.input, ScoredSet, step=ASK),
            process=AskRows(config),
            inputs={"claims": config.input},
        ),
        config,
    )


def check_claims(config: CheckConfig) -> Path:
    """Write the scored sets with `checked` in their claims; returns `out_dir`."""
    return run_stage(
        Stage(
            step=CHECK,
            out_dir=config.out_dir,
            source=FolderSource(config.input, ScoredSet, step=CHECK),
            process=CheckRows(_LazyShares(config)),
            inputs={"claims": config.input, "asked": config.asked, "answers": config.answers},
            then=lambda: columns_of(config.out_dir),
        ),
        config,
    )


@dataclass(frozen=True)
class AskRows:
    """Process of `ask-claims`."""

    config: AskConfig

    def __call__(self, block: Sequence[ScoredSet]) -> list[Outcome]:
        ask = _question_writer(self.config.grammar) if self.config.grammar else self._plain_question
        return [self._queries_of(row, ask) for row in block]

    def _plain_question(self, claim: Claim) -> Asked | None:
        return self.config.question.format(key=claim.key), "yes"

    def _queries_of(self, row: ScoredSet, ask: Callable[[Claim], Asked | None]) -> list[Query]:
        found: list[Query] = []
        for number, claim in enumerate(distinct_claims(row)):
            sure = claim.support is not None and not self.config.least <= claim.support <= self.config.most
            asked = None if sure else ask(claim)
            if asked is not None:
                extra = {"of": row.id, "kind": claim.kind, "key": claim.key, "confirms": asked[1]}
                key = f"{row.id}/claim-{number}"
                found.append(Query(id=key, task=TASK, images=row.query.images, question=asked[0], extra=extra))
        return found


def distinct_claims(row: ScoredSet) -> list[Claim]:
    """Return the claims of a row in order, each kind and key once."""
    found: dict[tuple[str, str], Claim] = {}
    for candidate in row.candidates:
        for claim in candidate.claims:
            found.setdefault((claim.kind, claim.key), claim)
    return list(found.values())


def _question_writer(name: str) -> Callable[[Claim], Asked | None]:
    ask = getattr(load_grammar(name), "ask", None)
    if not callable(ask):
        raise ValueError(f"grammar: {name!r} has no method `ask`, which writes the question. Remove grammar")
    found: Callable[[Claim], Asked | None] = ask
    return found


class _LazyShares:
    """Share of answers that confirm a claim, by row, kind and key; loaded at the first block."""

    def __init__(self, config: CheckConfig) -> None:
        self.config = config
        self._shares: Mapping[tuple[str, str, str], float] | None = None

    def __call__(self) -> Mapping[tuple[str, str, str], float]:
        if self._shares is None:
            self._shares = confirmed_shares(self.config.asked, self.config.answers)
        return self._shares


def confirmed_shares(asked: Path, answers: Path) -> dict[tuple[str, str, str], float]:
    """Return by (row, kind, key) the share of answers that confirm the claim; unreadable chains confirm nothing.

    Raises `ValueError` for answers to questions that are not in `asked`.
    """
    queries = {query.id: query for query in read_records(asked, Query)}
    found = {}
    for row in read_records(answers, CandidateSet):
        if row.id not in queries:
            raise ValueError(f"{answers} has an answer to {row.id!r}, which is not in {asked}. Sample from that folder")
        query = queries[row.id]
        extra: dict[str, Any] = query.extra
        wanted = final_answer(str(extra["confirms"]), query.question)
        said = [_answer(query, candidate.text, candidate.style) for candidate in row.candidates]
        if said:
            share = sum(answer == wanted for answer in said) / len(said)
            found[str(extra["of"]), str(extra["kind"]), str(extra["key"])] = round(share, 6)
    return found


def _answer(query: Query, text: str, style: str) -> str | None:
    try:
        return final_answer(TASKS[query.task].compared(text, style), query.question)
    except ChainError:
        return None


@dataclass(frozen=True)
class CheckRows:
    """Process of `check-claims`."""

    shares: _LazyShares

    def __call__(self, block: Sequence[ScoredSet]) -> list[Outcome]:
        shares = self.shares()
        return [(self._checked_row(row, shares),) for row in block]

    def _checked_row(self, row: ScoredSet, shares: Mapping[tuple[str, str, str], float]) -> ScoredSet:
        def with_checks(scored: ScoredCandidate) -> ScoredCandidate:
            claims = tuple(
                claim.model_copy(update={"checked": shares.get((row.id, claim.kind, claim.key))})
                for claim in scored.claims
            )
            return scored.model_copy(update={"claims": claims})

        return row.model_copy(update={"candidates": tuple(map(with_checks, row.candidates))})

"""Write one text from a row's claims (`sicog settle`): ScoredSet with claims -> Example, and pairs under `pairs/`.

`prune` takes the best candidate and removes claims with low support. `merge` writes all claims with enough support as
one text. The claims of the text and their supports are stored in `extra`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sicog.chains import ChainError
from sicog.curation.claims.readers import Grammar, UnreadableError, load_grammar, prune_text
from sicog.curation.claims.served_reader import ServedModel, ServedWriter
from sicog.curation.score.self_consistency import DECIMALS
from sicog.curation.words import folded_text
from sicog.records import Claim, Dropped, Example, PreferencePair, ScoredCandidate, ScoredSet, Turn
from sicog.remote.config import EndpointConfig
from sicog.stages.config import StageConfig
from sicog.stages.reader import UNREADABLE, FolderSource
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Outcome
from sicog.tasks import TASKS

STEP = "settle"
PAIRS = "pairs"
UNWRITTEN = "unwritten"
Least = float | dict[str, float]


class SettleConfig(StageConfig):
    """Config of `sicog settle`.

    The strength of a claim is its support: the share of the other candidates that state it. With windows (`closer` of
    sampling) or questions (`check-claims`) it is support + closer_weight x seen + check_weight x checked.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "max_dropped_share"})
    input: Path
    """Scored sets with claims."""
    out_dir: Path
    how: Literal["prune", "merge"] = "merge"
    """`prune` keeps the best candidate without its unsupported claims; `merge` writes all supported claims as one text.
    """
    grammar: str | None = None
    """Grammar of the texts as `module:NAME`; null for texts whose claims are their sentences."""
    support: Least | None = None
    """Minimum strength of a kept claim: one number, or one for each kind (0 for kinds that are not named)."""
    quantile: float | None = Field(default=None, ge=0, lt=1)
    """Use instead of `support`: remove the claims of each kind up to this quantile of the strengths in `input`. So rare
    kinds keep their share."""
    closer_weight: float = Field(default=0.5, ge=0)
    """Weight of support from windows."""
    check_weight: float = Field(default=0.5, ge=0)
    """Weight of the share of confirming answers."""
    min_candidates: int = Field(default=3, ge=2)
    min_claims: int = Field(default=1, ge=1)
    """Rows with fewer remaining claims are dropped."""
    agreement: float = Field(default=0.0, ge=0, le=1)
    """Rows are dropped when the mean support of their kept claims is lower."""
    style: str | None = None
    """Style of a merged text, and of a text from a grammar; null: the first style of its task that is not a chain."""
    endpoint: EndpointConfig | None = None
    """Served model that writes the merged text from the claims; its answers are cached. null: the grammar writes the
    text, or the sentences are joined."""
    rows_per_shard: int = Field(default=8192, ge=1)

    @model_validator(mode="after")
    def _check_rule(self) -> SettleConfig:
        if (self.support is None) == (self.quantile is None):
            raise ValueError("support and quantile: set exactly one of them")
        least = self.support.values() if isinstance(self.support, dict) else [self.support or 0.0]
        most = 1 + self.closer_weight + self.check_weight
        if any(not 0 <= value <= most for value in least):
            raise ValueError(f"support must be a strength between 0 and {most:g}")
        if self.grammar is not None:
            load_grammar(self.grammar)
        if self.endpoint is not None and (self.how != "merge" or self.grammar is not None or self.workers > 1):
            raise ValueError("an endpoint only writes merged texts: set how=merge, grammar=null and workers=1")
        return self


def settle(config: SettleConfig) -> Path:
    """Write the dataset `out_dir` of `Example`; returns it."""
    source = FolderSource(config.input, ScoredSet, step=STEP)
    least = (
        config.support
        if config.quantile is None
        else quantiles(source.read(0, len(source)), config.quantile, config.closer_weight, config.check_weight)
    )
    assert least is not None
    inputs = {"claims": config.input}
    served = (
        ServedModel(config.endpoint, config.endpoint.answers or config.out_dir / "answers") if config.endpoint else None
    )
    try:
        return run_stage(
            Stage(
                step=STEP,
                out_dir=config.out_dir,
                source=source,
                process=SettleRows(config, least, ServedWriter(served) if served else None),
                inputs=inputs,
                outputs={PreferencePair: PAIRS},
                limited_reasons=frozenset({UNREADABLE, UNWRITTEN}),
            ),
            config,
        )
    finally:
        if served is not None:
            served.close()


def strength(claim: Claim, closer_weight: float, check_weight: float = 0.0) -> float:
    """Return support + closer_weight x seen + check_weight x checked, rounded to 1e-6; unknown values count as 0."""
    beside = closer_weight * (claim.seen or 0.0) + check_weight * (claim.checked or 0.0)
    return round((claim.support or 0.0) + beside, DECIMALS)


def quantiles(rows: Any, share: float, closer_weight: float = 0.0, check_weight: float = 0.0) -> dict[str, float]:
    """Return by kind the lowest strength above which at most 1 - share of the claims lie."""
    counts: dict[str, Counter[float]] = defaultdict(Counter)
    for row in rows:
        if isinstance(row, ScoredSet):
            for claim in _all_claims(row):
                if claim.support is not None:
                    counts[claim.kind][strength(claim, closer_weight, check_weight)] += 1
    found = {}
    for kind, values in counts.items():
        below, total = 0, values.total()
        for value in sorted(values):
            below += values[value]
            if below > share * total:
                found[kind] = value
                break
    return found


def _all_claims(row: ScoredSet) -> list[Claim]:
    return [claim for candidate in row.candidates for claim in candidate.claims]


@dataclass(frozen=True)
class SettleRows:
    """Process of the stage. least: minimum strength of a kept claim; writer: replaces the grammar."""

    config: SettleConfig
    least: Least
    writer: ServedWriter | None = None

    def __call__(self, block: Sequence[ScoredSet]) -> list[Outcome]:
        grammar = load_grammar(self.config.grammar) if self.config.grammar else None
        written = self._endpoint_texts(block) if self.writer else {}
        return [self._one(row, grammar, written.get(number)) for number, row in enumerate(block)]

    def _endpoint_texts(self, block: Sequence[ScoredSet]) -> dict[int, str | UnreadableError]:
        """Return the endpoint's text for each row of the block with enough candidates and claims."""
        assert self.writer is not None
        wanted: dict[int, list[str]] = {}
        for number, row in enumerate(block):
            spoken, usable = _candidates_with_claims(row)
            if len(usable) >= self.config.min_candidates:
                kept = self._merged_claims(spoken, _best(usable)[0])
                if len(kept) >= self.config.min_claims:
                    wanted[number] = [claim.key for claim in kept]
        return dict(zip(wanted, self.writer.write(list(wanted.values())), strict=True))

    def _one(self, row: ScoredSet, grammar: Grammar | None, asked_for: str | UnreadableError | None) -> Outcome:
        spoken, usable = _candidates_with_claims(row)
        if len(usable) < self.config.min_candidates:
            reasons = Counter(c.excluded or "compared" for c in row.candidates)
            detail = f"{len(usable)} of {len(row.candidates)} state anything ({_format_counts(reasons)})"
            return self._drop_row(row, "no_claims" if not usable else "too_few_candidates", detail)
        if isinstance(asked_for, UnreadableError):
            return self._drop_row(row, UNWRITTEN, str(asked_for))
        place, best = _best(usable)
        if self.config.how == "prune":
            kept = [c for c in best.claims if self._keeps(c)]
            text = self._pruned_text(best, kept, grammar)
            style = best.candidate.style if grammar is None else self._plain_style(row)  # a grammar writes plain texts
        else:
            kept = self._merged_claims(spoken, place)
            text = self._render_claims(kept, grammar) if grammar else asked_for or " ".join(c.key for c in kept)
            style = self._plain_style(row)
        if len(kept) < self.config.min_claims or not text:
            return self._drop_row(row, "too_few_claims", f"{len(kept)} claims have the support that is asked for")
        mean = sum(self._strength(c) for c in kept) / len(kept)
        if mean < self.config.agreement:
            return self._drop_row(row, "low_support", f"mean support {mean:.6g} < {self.config.agreement:g}")
        try:
            TASKS[row.query.task].compared(text, style)
        except ChainError as error:
            return self._drop_row(row, "no_chain_left", f"without its unsupported claims the chain is broken: {error}")
        return self._kept_example(row, style, text, kept, usable, mean)

    def _kept_example(
        self,
        row: ScoredSet,
        style: str,
        text: str,
        kept: Sequence[Claim],
        usable: Sequence[tuple[int, ScoredCandidate]],
        mean: float,
    ) -> Outcome:
        prompt = TASKS[row.query.task].prompt(row.query, style)
        user = Turn(role="user", text=prompt, images_at=(0,) * len(row.query.images))
        marks = {
            "style": style,
            "agreement": round(mean, 6),
            "k": len(usable),
            "checkpoint": ",".join(sorted({c.candidate.checkpoint for _, c in usable})),
            "claims": [
                c.model_dump(mode="json", include={"kind", "key", "support", "seen", "checked", "stated_by"})
                for c in kept
            ],
        }
        example = Example(
            id=row.id,
            images=row.query.images,
            turns=(user, Turn(role="assistant", text=text)),
            source=row.query.task,
            extra={**{f"query.{k}" if k in marks else k: v for k, v in row.query.extra.items()}, **marks},
        )
        rejected = self._rejected_candidate(usable, style, text)
        if rejected is None:
            return (example,)
        pair = PreferencePair(
            id=row.id, images=row.query.images, prompt=(user,), chosen=text, rejected=rejected.candidate.text
        )
        return (example, pair)

    def _rejected_candidate(
        self, usable: Sequence[tuple[int, ScoredCandidate]], style: str, text: str
    ) -> ScoredCandidate | None:
        """Return the candidate of that style with the most unsupported claims; None when no candidate has any."""
        wrong = [
            (sum(not self._keeps(claim) for claim in c.claims), -place, c)
            for place, c in usable
            if c.candidate.style == style and folded_text(c.candidate.text) != folded_text(text)
        ]
        most = max(wrong, key=lambda one: one[:2], default=None)
        return most[2] if most and most[0] else None

    def _plain_style(self, row: ScoredSet) -> str:
        return self.config.style or TASKS[row.query.task].plain_style

    def _keeps(self, claim: Claim) -> bool:
        least = self.least.get(claim.kind, 0.0) if isinstance(self.least, Mapping) else self.least
        return claim.support is not None and self._strength(claim) >= least

    def _strength(self, claim: Claim) -> float:
        return strength(claim, self.config.closer_weight, self.config.check_weight)

    def _render_claims(self, kept: Sequence[Claim], grammar: Grammar) -> str | None:
        return grammar.write([(claim, self._strength(claim)) for claim in kept])

    def _pruned_text(self, best: ScoredCandidate, kept: Sequence[Claim], grammar: Grammar | None) -> str | None:
        if grammar:
            return self._render_claims(kept, grammar)
        return prune_text(best.candidate.text, best.claims, [c in kept for c in best.claims])

    def _merged_claims(self, spoken: Sequence[tuple[int, ScoredCandidate]], best: int) -> list[Claim]:
        """Return the supported claims, best candidate first; skip claims that an earlier candidate states."""
        order = sorted(spoken, key=lambda one: (one[0] != best, -(one[1].agreement or 0.0), one[0]))
        kept: list[Claim] = []
        seen: set[int] = set()
        for place, candidate in order:
            kept += [c for c in candidate.claims if self._keeps(c) and not seen & set(c.stated_by)]
            seen.add(place)
        return kept

    def _drop_row(self, row: ScoredSet, reason: str, detail: str) -> Dropped:
        return Dropped(id=row.id, step=STEP, reason=reason, detail=detail)


Placed = tuple[int, ScoredCandidate]


def _candidates_with_claims(row: ScoredSet) -> tuple[list[Placed], list[Placed]]:
    """Return the candidates with claims and their places, and those of them about the whole image."""
    spoken = [(place, c) for place, c in enumerate(row.candidates) if c.claims]
    return spoken, [(place, c) for place, c in spoken if c.excluded is None]


def _best(usable: Sequence[Placed]) -> Placed:
    return max(usable, key=lambda one: (one[1].agreement or 0.0, -one[0]))


def _format_counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))

"""Extract the claims of candidates and count their support (`sicog claims`): CandidateSet -> ScoredSet.

The output has the format of `sicog score`, so thresholds, selection, pairs and the report work on it. `sicog settle`
writes texts from the claims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sicog.config.paths import NameOrPath
from sicog.curation.claims.readers import (
    AnswerReader,
    GrammarReader,
    Reader,
    ReadSet,
    SentenceReader,
    Texts,
    UnreadableError,
    load_grammar,
)
from sicog.curation.claims.served_reader import ServedModel, ServedReader
from sicog.curation.claims.support import Measure, agreements, supports, window_support
from sicog.curation.score.block import comparable_candidate
from sicog.curation.score.columns import columns_of
from sicog.curation.score.score import SetsConfig, SetsStage
from sicog.curation.score.self_consistency import DECIMALS, votes
from sicog.curation.vectors.prepare import encoder_files, score_when_embedded
from sicog.curation.vectors.vector_cache import Embedding
from sicog.records import CandidateSet, Claim, Dropped, ScoredCandidate, ScoredSet
from sicog.remote.config import EndpointConfig
from sicog.stages.candidates import RunsSource, find_runs
from sicog.stages.provenance import digest_path, write_run_json
from sicog.stages.reader import FolderSource, Source
from sicog.stages.shard import Outcome
from sicog.stages.storage import is_finished
from sicog.tasks import TASKS

STEP, ANSWERS = "claims", "answers"


class ClaimsConfig(SetsConfig):
    """Config of `sicog claims`. Unreadable rows are dropped, with file and line or the reader's message."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "cache_dir", "max_dropped_share"})
    reader: Literal["sentences", "answer", "grammar", "endpoint"] = "sentences"
    """How claims are extracted. `sentences`: any text, compared by `encoder` or by the NLI model `nli`, at `threshold`.
    `answer`: the normalised final answer, for tasks with short answers. `grammar`: texts of a world with a grammar.
    `endpoint`: a served model extracts and checks claims, 2 K requests per row of K candidates; all are cached."""
    measure: Measure = "support"
    """Agreement of a candidate: `support` is the mean support of its claims, `f1` its expected F1 against the other
    candidates."""
    threshold: float = Field(default=0.65, gt=0, le=1)
    """Minimum cosine, or minimum probability of entailment, for a sentence to count as stated."""
    nli: NameOrPath | None = None
    """NLI cross-encoder that compares sentences instead of `encoder`: a folder, or a Hugging Face model in the local
    cache."""
    grammar: str | None = None
    """Grammar of the texts as `module:NAME`, for reader `grammar`."""
    endpoint: EndpointConfig | None = None
    """The served model, for reader `endpoint`."""
    half: Literal[0, 1] | None = None
    """0 or 1: read only one half of the candidates, to measure how much labels depend on sampling (`sicog gap`)."""

    @model_validator(mode="after")
    def _check_reader_inputs(self) -> ClaimsConfig:
        if (self.reader == "grammar") != (self.grammar is not None):
            raise ValueError(
                "reader: grammar needs the key grammar=module:NAME; other readers do not use it. Set both or neither"
            )
        if self.grammar is not None:
            load_grammar(self.grammar)
        if (self.reader == "endpoint") != (self.endpoint is not None):
            raise ValueError(
                "reader: endpoint needs the key endpoint={model: ...}; other readers do not use it. Set both or neither"
            )
        if self.endpoint is not None and self.workers > 1:
            raise ValueError(
                "workers must be 1 with an endpoint: one process sends all requests. Raise endpoint.concurrency instead"
            )
        if self.nli is not None and self.reader != "sentences":
            raise ValueError(f"nli works only with reader: sentences, not reader: {self.reader}. Remove nli")
        return self


def claims(config: ClaimsConfig) -> Path:
    """Extract the claims of all sets; write the dataset `out_dir` of `ScoredSet` and its columns. Returns it."""
    folders = find_runs(config.input)
    embeds = config.reader == "sentences" and config.nli is None
    inputs = {f"candidates-{i}": folder for i, folder in enumerate(folders)}
    inputs |= encoder_files(config.encoder) if embeds else {}
    inputs |= {f"checkpoint-{i}": path for i, path in enumerate(config.checkpoint)}
    claim = partial(write_run_json, config.out_dir, step=STEP, config=config, inputs=inputs)
    if is_finished(config.out_dir):
        claim()
        columns_of(config.out_dir)
        return config.out_dir
    source: Source[CandidateSet] = (
        RunsSource(folders, step=STEP) if len(folders) > 1 else FolderSource(folders[0], CandidateSet, step=STEP)
    )
    served = (
        ServedModel(config.endpoint, config.endpoint.answers or config.out_dir / ANSWERS) if config.endpoint else None
    )
    reading = Reading(
        config,
        source=source,
        inputs=inputs,
        checkpoints=frozenset(map(digest_path, config.checkpoint)),
        then=partial(columns_of, config.out_dir),
        served=served,
    )
    if embeds:
        score_when_embedded(
            config.encoder,
            out_dir=config.out_dir,
            cache_dir=config.cache_dir,
            claim=claim,
            scoring=reading,
            workers=config.workers,
        )
    else:
        try:
            reading(None)
        finally:
            if served is not None:
                served.close()
    return config.out_dir


@dataclass(frozen=True)
class Reading(SetsStage):
    """Stage that extracts the claims of all sets."""

    step: ClassVar[str] = STEP
    config: ClaimsConfig
    served: ServedModel | None = None

    def process(self, embedder: Embedding | None) -> ReadClaims:
        """Return the process that reads a block."""
        reader = ServedReader(self.served) if self.served else _reader(self.config, embedder)
        return ReadClaims(reader, self.config.measure, self.checkpoints, self.config.half)


def _reader(config: ClaimsConfig, embedder: Embedding | None) -> Reader:
    if config.reader == "answer":
        return AnswerReader()
    if config.grammar is not None:
        return GrammarReader(config.grammar)
    if config.nli is not None:
        from sicog.curation.claims.entailment import CrossEncoderNli

        return SentenceReader(config.threshold, nli=CrossEncoderNli(config.nli))
    return SentenceReader(config.threshold, embedder=embedder)


@dataclass(frozen=True)
class ReadClaims:
    """Process of the stage."""

    reader: Reader
    measure: Measure
    checkpoints: frozenset[str] = frozenset()
    half: int | None = None

    def __call__(self, block: Sequence[CandidateSet]) -> list[Outcome]:
        block = [_half_of_candidates(row, self.half) for row in block]
        rows = [[comparable_candidate(row, c, self.checkpoints) for c in row.candidates] for row in block]
        if isinstance(self.reader, AnswerReader):
            _check_short_answers(block)
        read = self.reader.read([_texts(row, candidates) for row, candidates in zip(block, rows, strict=True)])
        return [self._outcome(row, c, found) for row, c, found in zip(block, rows, read, strict=True)]

    def _outcome(
        self, row: CandidateSet, candidates: Sequence[ScoredCandidate], found: ReadSet | UnreadableError
    ) -> Outcome:
        if isinstance(found, UnreadableError):
            return Dropped(id=row.id, step=STEP, reason="unreadable_claims", detail=str(found))
        return (self._scored_set(row, candidates, found),)

    def _scored_set(self, row: CandidateSet, candidates: Sequence[ScoredCandidate], found: ReadSet) -> ScoredSet:
        """Return the scored set: claims of every text, and scores of the texts about the whole image."""
        scored = list(candidates)
        places = [i for i, c in enumerate(candidates) if _is_comparable(c)]
        for place in [places[k] for k, own in enumerate(found.claims) if not own]:
            scored[place] = scored[place].model_copy(update={"compared": None, "excluded": "no_claims"})
        places = [place for place, own in zip(places, found.claims, strict=True) if own]
        found = _drop_silent_texts(found)
        windows = [c.candidate.window for c in (candidates[place] for place in places)]
        known = {window: number for number, window in enumerate(dict.fromkeys(w for w in windows if w))}
        window_K = np.array([known[w] if w else -1 for w in windows], dtype=np.int64)
        made = iter(_claims(found, window_K, places))
        whole_K = window_K < 0
        agreed = iter(agreements(*_whole_image_claims(found, whole_K), self.measure).tolist())
        k = int(whole_K.sum())
        for place, own, is_whole in zip(places, found.claims, whole_K.tolist(), strict=True):
            marks: dict[str, Any] = {"claims": tuple(next(made) for _ in own)}
            if is_whole:
                agreement = next(agreed)
                # As with embeddings, the score includes the candidate itself, with agreement 1.
                score = round(((k - 1) * agreement + 1) / k, DECIMALS) if k > 1 else 1.0
                marks |= {"agreement": _none_if_nan(agreement), "score": score}
            scored[place] = scored[place].model_copy(update=marks)
        if isinstance(self.reader, AnswerReader):
            scored = _with_votes(scored, [p for p, w in zip(places, whole_K.tolist(), strict=True) if w])
        return ScoredSet(id=row.id, query=row.query, candidates=tuple(scored), encoder=self.reader.description)


def _half_of_candidates(row: CandidateSet, half: int | None) -> CandidateSet:
    """Return the set with half of the candidates, of the whole image and of each window."""
    if half is None:
        return row
    seen: Counter[Any] = Counter()
    kept = []
    for candidate in row.candidates:
        if seen[candidate.window] % 2 == half:
            kept.append(candidate)
        seen[candidate.window] += 1
    return row.model_copy(update={"candidates": tuple(kept)})


def _is_comparable(scored: ScoredCandidate) -> bool:
    """Return whether a candidate is a complete text, of the whole image or of a window."""
    return scored.compared is not None or (scored.excluded == "window" and scored.candidate.finish_reason == "stop")


def _texts(row: CandidateSet, candidates: Sequence[ScoredCandidate]) -> Texts:
    read = [c for c in candidates if _is_comparable(c)]
    texts = tuple(c.candidate.text for c in read)
    compared = tuple(c.compared or "" for c in read)
    return Texts(row.query, texts, compared, tuple(c.candidate.window for c in read))


def _drop_silent_texts(found: ReadSet) -> ReadSet:
    """Remove texts without claims: their disagreement means nothing."""
    speaks = [bool(own) for own in found.claims]
    return ReadSet(tuple(own for own in found.claims if own), found.stated[:, speaks])


def _whole_image_claims(found: ReadSet, whole_K: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return owner_C and stated_CK for the texts about the whole image only."""
    of_whole_C = whole_K[found.owner]
    numbers_K = np.cumsum(whole_K) - 1
    return numbers_K[found.owner[of_whole_C]], found.stated[of_whole_C][:, whole_K]


def _claims(found: ReadSet, window_K: NDArray[np.int64], places: Sequence[int]) -> Iterator[Claim]:
    """Yield the claims of all texts in order, with their support."""
    supported = supports(found.owner, found.stated, window_K < 0).tolist()
    closer = window_support(found.stated, window_K).tolist()
    flat = [claim for own in found.claims for claim in own]
    for c, support, near, stated in zip(flat, supported, closer, found.stated, strict=True):
        yield Claim(
            kind=c.kind,
            key=c.key,
            start=c.start,
            end=c.end,
            stated_by=tuple(places[k] for k in stated.nonzero()[0].tolist()),
            support=_none_if_nan(support),
            seen=_none_if_nan(near),
        )


def _none_if_nan(value: float) -> float | None:
    return None if value != value else value


def _with_votes(scored: Sequence[ScoredCandidate], places: Sequence[int]) -> list[ScoredCandidate]:
    cast = votes([scored[place].claims[0].key for place in places])
    found = list(scored)
    for place, (vote, margin) in zip(places, cast, strict=True):
        update = {"answer": scored[place].claims[0].key, "vote": vote, "margin": margin}
        found[place] = scored[place].model_copy(update=update)
    return found


def _check_short_answers(block: Sequence[CandidateSet]) -> None:
    for row in block:
        if not TASKS[row.query.task].votes:
            raise ValueError(
                f"row {row.id}: reader: answer needs short answers, but {row.query.task} has none. Use reader: "
                "sentences"
            )

"""Read the claims of candidates and count who else states them (`sicog claims`): CandidateSet -> ScoredSet.

What comes out is scored as `sicog score` scores, so thresholds, selection, pairs and the report work on it; `sicog
settle` writes texts from the claims themselves.
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
from sicog.curation.claims.support import Measure, agreements, seen, supports
from sicog.curation.score.block import comparable
from sicog.curation.score.columns import columns_of
from sicog.curation.score.score import SetsConfig, SetsStage
from sicog.curation.score.self_consistency import DECIMALS, votes
from sicog.curation.vectors.prepare import encoder_files, when_embedded
from sicog.curation.vectors.vector_cache import Embedding
from sicog.records import CandidateSet, Claim, Dropped, ScoredCandidate, ScoredSet
from sicog.remote.config import EndpointConfig
from sicog.stages.candidates import RunsSource, find_runs
from sicog.stages.provenance import digest_path, write_run_json
from sicog.stages.reader import FolderSource, Source
from sicog.stages.shard import Outcome
from sicog.stages.storage import MANIFEST
from sicog.tasks import TASKS

STEP, ANSWERS = "claims", "answers"


class ClaimsConfig(SetsConfig):
    """Config of `sicog claims`. Rows that cannot be read are dropped, by file and line or with what the reader says."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "cache_dir", "max_dropped_share"})
    reader: Literal["sentences", "answer", "grammar", "endpoint"] = "sentences"
    """How claims are read: `sentences` (any text; compared by `encoder`, or by the NLI cross-encoder `nli`, at
    `threshold`), `answer` (the normalised final answer; tasks with short answers), `grammar` (texts of a world with a
    grammar), `endpoint` (a served model extracts claims and checks them: 2 K requests for a row of K candidates, whose
    answers are stored and asked for once)."""
    measure: Measure = "support"
    """What a candidate's agreement is: `support`, the mean support of its claims, or `f1`, its expected F1 against the
    other candidates."""
    threshold: float = Field(default=0.65, gt=0, le=1)
    """Cosine, or probability of entailment, from which a sentence counts as stated."""
    nli: NameOrPath | None = None
    """An NLI cross-encoder that compares sentences instead of `encoder`: a folder, or a model of the Hugging Face hub
    in the local cache."""
    grammar: str | None = None
    """With reader `grammar`: the grammar of the texts, as `module:NAME`."""
    endpoint: EndpointConfig | None = None
    """With reader `endpoint`: the served model."""
    half: Literal[0, 1] | None = None
    """0 or 1 reads every other candidate only, to see how far labels depend on the draw (`sicog gap`)."""

    @model_validator(mode="after")
    def _the_reader_has_what_it_reads_with(self) -> ClaimsConfig:
        if (self.reader == "grammar") != (self.grammar is not None):
            raise ValueError("reader: grammar needs grammar=module:NAME, and no other reader takes one")
        if self.grammar is not None:
            load_grammar(self.grammar)
        if (self.reader == "endpoint") != (self.endpoint is not None):
            raise ValueError("reader: endpoint needs endpoint={model: ...}, and no other reader takes one")
        if self.endpoint is not None and self.workers > 1:
            raise ValueError("an endpoint is asked by one process; raise endpoint.concurrency instead of workers")
        if self.nli is not None and self.reader != "sentences":
            raise ValueError(f"nli judges sentences; reader: {self.reader} has no use for it")
        return self


def claims(config: ClaimsConfig) -> Path:
    """Read the claims of all sets and write the dataset `out_dir` of `ScoredSet`, and its columns; returns it."""
    folders = find_runs(config.input)
    embeds = config.reader == "sentences" and config.nli is None
    inputs = {f"candidates-{i}": folder for i, folder in enumerate(folders)}
    inputs |= encoder_files(config.encoder) if embeds else {}
    inputs |= {f"checkpoint-{i}": path for i, path in enumerate(config.checkpoint)}
    claim = partial(write_run_json, config.out_dir, step=STEP, config=config, inputs=inputs)
    if (config.out_dir / MANIFEST).is_file():
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
        when_embedded(
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
    """Reads the claims of all sets."""

    step: ClassVar[str] = STEP
    config: ClaimsConfig
    served: ServedModel | None = None

    def process(self, embedder: Embedding | None) -> ReadClaims:
        """What reads a block."""
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
    """The process of the stage."""

    reader: Reader
    measure: Measure
    checkpoints: frozenset[str] = frozenset()
    half: int | None = None

    def __call__(self, block: Sequence[CandidateSet]) -> list[Outcome]:
        block = [_half(row, self.half) for row in block]
        rows = [[comparable(row, c, self.checkpoints) for c in row.candidates] for row in block]
        if isinstance(self.reader, AnswerReader):
            _check_short_answers(block)
        read = self.reader.read([_texts(row, candidates) for row, candidates in zip(block, rows, strict=True)])
        return [self._outcome(row, c, found) for row, c, found in zip(block, rows, read, strict=True)]

    def _outcome(
        self, row: CandidateSet, candidates: Sequence[ScoredCandidate], found: ReadSet | UnreadableError
    ) -> Outcome:
        if isinstance(found, UnreadableError):
            return Dropped(id=row.id, step=STEP, reason="unreadable_claims", detail=str(found))
        return (self._scored(row, candidates, found),)

    def _scored(self, row: CandidateSet, candidates: Sequence[ScoredCandidate], found: ReadSet) -> ScoredSet:
        """With the claims of every text, and the marks of those that are about the whole image."""
        scored = list(candidates)
        places = [i for i, c in enumerate(candidates) if _is_read(c)]
        for place in [places[k] for k, own in enumerate(found.claims) if not own]:
            scored[place] = scored[place].model_copy(update={"compared": None, "excluded": "no_claims"})
        places = [place for place, own in zip(places, found.claims, strict=True) if own]
        found = _without_silent(found)
        windows = [c.candidate.window for c in (candidates[place] for place in places)]
        known = {window: number for number, window in enumerate(dict.fromkeys(w for w in windows if w))}
        window_K = np.array([known[w] if w else -1 for w in windows], dtype=np.int64)
        made = iter(_claims(found, window_K, places))
        whole_K = window_K < 0
        agreed = iter(agreements(*_of_whole(found, whole_K), self.measure).tolist())
        k = int(whole_K.sum())
        for place, own, is_whole in zip(places, found.claims, whole_K.tolist(), strict=True):
            marks: dict[str, Any] = {"claims": tuple(next(made) for _ in own)}
            if is_whole:
                agreement = next(agreed)
                # As among vectors, the score counts the candidate itself, with which it agrees wholly.
                score = round(((k - 1) * agreement + 1) / k, DECIMALS) if k > 1 else 1.0
                marks |= {"agreement": _known(agreement), "score": score}
            scored[place] = scored[place].model_copy(update=marks)
        if isinstance(self.reader, AnswerReader):
            scored = _with_votes(scored, [p for p, w in zip(places, whole_K.tolist(), strict=True) if w])
        return ScoredSet(id=row.id, query=row.query, candidates=tuple(scored), encoder=self.reader.description)


def _half(row: CandidateSet, half: int | None) -> CandidateSet:
    """The set with every other candidate of the whole image, and of each window."""
    if half is None:
        return row
    seen: Counter[Any] = Counter()
    kept = []
    for candidate in row.candidates:
        if seen[candidate.window] % 2 == half:
            kept.append(candidate)
        seen[candidate.window] += 1
    return row.model_copy(update={"candidates": tuple(kept)})


def _is_read(scored: ScoredCandidate) -> bool:
    """Whole texts, of the whole image or of a window; what a length limit cut is neither."""
    return scored.compared is not None or (scored.excluded == "window" and scored.candidate.finish_reason == "stop")


def _texts(row: CandidateSet, candidates: Sequence[ScoredCandidate]) -> Texts:
    read = [c for c in candidates if _is_read(c)]
    texts = tuple(c.candidate.text for c in read)
    compared = tuple(c.compared or "" for c in read)
    return Texts(row.query, texts, compared, tuple(c.candidate.window for c in read))


def _without_silent(found: ReadSet) -> ReadSet:
    """Without the texts that state nothing: they are no others for whom it would mean something not to agree."""
    speaks = [bool(own) for own in found.claims]
    return ReadSet(tuple(own for own in found.claims if own), found.stated[:, speaks])


def _of_whole(found: ReadSet, whole_K: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """owner_C and stated_CK of the texts about the whole image alone."""
    of_whole_C = whole_K[found.owner]
    numbers_K = np.cumsum(whole_K) - 1
    return numbers_K[found.owner[of_whole_C]], found.stated[of_whole_C][:, whole_K]


def _claims(found: ReadSet, window_K: NDArray[np.int64], places: Sequence[int]) -> Iterator[Claim]:
    """The claims of all texts in order, with who states them."""
    supported = supports(found.owner, found.stated, window_K < 0).tolist()
    closer = seen(found.stated, window_K).tolist()
    flat = [claim for own in found.claims for claim in own]
    for c, support, near, stated in zip(flat, supported, closer, found.stated, strict=True):
        yield Claim(
            kind=c.kind,
            key=c.key,
            start=c.start,
            end=c.end,
            stated_by=tuple(places[k] for k in stated.nonzero()[0].tolist()),
            support=_known(support),
            seen=_known(near),
        )


def _known(value: float) -> float | None:
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
                f"row {row.id}: reader: answer needs short answers, {row.query.task} has none; use reader: sentences"
            )

"""The typed records that every step reads and writes.

A record has a stable string `id` and keeps it through every step. Records are joined by id, never by position.
Images are a field, not a marker in the text. `Turn.images_at` gives their positions in the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


class Record(BaseModel):
    """Base of all records: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str


RecordT = TypeVar("RecordT", bound=Record)
ValueT = TypeVar("ValueT")


class Turn(BaseModel):
    """One turn of a conversation. `images_at` holds, for each image of the turn, its character offset in `text`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Role
    text: str
    images_at: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _check_offsets(self) -> Turn:
        if not self.images_at:
            return self
        if list(self.images_at) != sorted(self.images_at) or any(not 0 <= a <= len(self.text) for a in self.images_at):
            raise ValueError(f"images_at must ascend within 0..{len(self.text)}, got {self.images_at}")
        if self.role != "user":
            raise ValueError(f"images belong to user turns, not to a turn of role {self.role!r}")
        return self


@dataclass(frozen=True)
class CandidateOrigin:
    """The candidate that an example was made from, and its marks, as `select` and `settle` write them into `extra`.

    style, index, seed, checkpoint: of the candidate; together they tell it from all others of its query. score,
    agreement, vote, margin: its marks among `k` compared candidates. of: the id of the row whose chain gave this bare
    answer. None for what is not known; users' rows may hold anything under these keys.
    """

    style: str | None = None
    index: int | None = None
    seed: int | None = None
    checkpoint: str | None = None
    score: float | None = None
    agreement: float | None = None
    vote: float | None = None
    margin: float | None = None
    k: int | None = None
    of: str | None = None

    @classmethod
    def read(cls, extra: Mapping[str, Any]) -> CandidateOrigin:
        """Read the keys of `extra`; a value of another type, or a number that is not finite, is not known."""
        return cls(
            style=_value_of_type(extra.get("style"), str),
            index=_value_of_type(extra.get("index"), int),
            seed=_value_of_type(extra.get("seed"), int),
            checkpoint=_value_of_type(extra.get("checkpoint"), str),
            score=_finite(extra.get("score")),
            agreement=_finite(extra.get("agreement")),
            vote=_finite(extra.get("vote")),
            margin=_finite(extra.get("margin")),
            k=_value_of_type(extra.get("k"), int),
            of=_value_of_type(extra.get("of"), str),
        )


def _value_of_type(value: Any, kind: type[ValueT]) -> ValueT | None:
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _finite(value: Any) -> float | None:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    return number if math.isfinite(number) else None


class Example(Record):
    """A conversation to train on. `images`: paths relative to the image folder, in the order of the turns' images."""

    images: tuple[str, ...] = ()
    turns: tuple[Turn, ...]
    source: str = ""
    extra: dict[str, Any] = {}

    @property
    def origin(self) -> CandidateOrigin:
        """The candidate that this example was made from."""
        return CandidateOrigin.read(self.extra)

    @model_validator(mode="after")
    def _check_turns(self) -> Example:
        if (n := sum(len(t.images_at) for t in self.turns)) != len(self.images):
            raise ValueError(f"{len(self.images)} images but {n} image positions in the turns")
        spoken = [t.role for t in self.turns if t.role != "system"]
        if any(t.role == "system" for t in self.turns[1:]):
            raise ValueError("a system turn may only come first")
        if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
            raise ValueError(f"turns must alternate user, assistant; got {', '.join(spoken) or 'none'}")
        return self


class AnnotatedRow(Record):
    """A user's caption row in ALLaVA form, with all its keys, and the teacher's output.

    cod_caption: the whole five-step text; dd_caption: the body of its last step.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    cod_caption: str
    dd_caption: str


class Query(Record):
    """Unlabelled input of the generate step: images, and (not for captions) a question. Styles make prompts of it."""

    task: str  # a name in `tasks.TASKS`
    images: tuple[str, ...] = ()
    question: str = ""
    extra: dict[str, Any] = {}


class Corruption(BaseModel):
    """A corruption applied to an image, with the parameters that reproduce it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: str
    parameters: dict[str, float | tuple[int, ...]]


class Candidate(BaseModel):
    """One sampled answer with everything needed to sample it again. `corruptions`: one per image, or none.

    window: the box (left, top, right, bottom), in shares of width and height, if only that part was shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    query_id: str
    style: str
    prompt: str
    index: int
    seed: int
    text: str
    finish_reason: FinishReason
    n_tokens: int
    checkpoint: str  # digest of the checkpoint that wrote it
    corruptions: tuple[Corruption, ...] = ()
    window: tuple[float, float, float, float] | None = None


class CandidateSet(Record):
    """All candidates of one query. Their number may differ between rows."""

    query: Query
    candidates: tuple[Candidate, ...]

    @model_validator(mode="after")
    def _check_candidates(self) -> CandidateSet:
        if wrong := [c.query_id for c in self.candidates if c.query_id != self.query.id]:
            raise ValueError(f"candidates of other queries in the set of {self.query.id}: {wrong}")
        return self


class Claim(BaseModel):
    """A statement in a candidate's text, found in the characters from start to end.

    Claims with the same kind and key state the same thing. In kind `sentences` similarity decides instead.
    stated_by: indices of all candidates in the set that state it, this one included.
    support: share in [0, 1] of the other comparable whole-image candidates that state it; None without such candidates.
    seen: the largest share of the candidates of one window that state it; None if no window was shown.
    checked: the share of answers to a question about it that confirm it; None if nothing was asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    key: str
    start: int
    end: int
    stated_by: tuple[int, ...]
    support: float | None = None
    seen: float | None = None
    checked: float | None = None


class ScoredCandidate(BaseModel):
    """A candidate, its compared text, and its scores among the K compared candidates of its set.

    `compared` is None when the candidate cannot be chosen. `excluded` then gives the reason, and all scores are None:
    `cut` by the length limit, `unparsed` chain, `empty`, `no_claims`, or `window` (it saw only a part of the image).
    score: the mean cosine to all K, itself included, in [-1, 1]; agreement: the same without itself, None at K = 1.
    answer: the normalised final answer, None for captions. vote: its share of the votes, in [0, 1].
    margin: `vote` minus the largest share of another answer.
    claims: its statements, if claims were read; score and agreement then come from them (`curation.claims`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    candidate: Candidate
    compared: str | None
    excluded: str | None = None
    score: float | None = None
    agreement: float | None = None
    answer: str | None = None
    vote: float | None = None
    margin: float | None = None
    claims: tuple[Claim, ...] = ()


class ScoredSet(Record):
    """A candidate set with scores, and the encoder that gave them. Thresholds are applied later, in `select`."""

    query: Query
    candidates: tuple[ScoredCandidate, ...]
    encoder: str


class PreferencePair(Record):
    """Preference data in TRL's vocabulary; `chosen` and `rejected` are both full texts and never equal.

    prompt: the conversation up to the answer, with its images.
    chosen_score, rejected_score: the scores or votes that curation ranked by. margin: their difference, above 0.
    All three are None for pairs that were not ranked.
    """

    images: tuple[str, ...] = ()
    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str
    chosen_score: float | None = None
    rejected_score: float | None = None
    margin: float | None = None

    @model_validator(mode="after")
    def _check_texts(self) -> PreferencePair:
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same text")
        return self

    @model_validator(mode="after")
    def _check_prompt(self) -> PreferencePair:
        Example(id=self.id, images=self.images, turns=self.turns(self.chosen))
        return self

    def turns(self, answer: str) -> tuple[Turn, ...]:
        """The whole conversation with this answer."""
        return (*self.prompt, Turn(role="assistant", text=answer))


class ReferencedPair(Record):
    """A preference pair that is ready for training.

    Lengths are those of `RowLengths`, summed over both conversations.
    chosen_log_prob, rejected_log_prob: reference log-probabilities of the answers (float32, natural logarithm).
    """

    pair: PreferencePair
    n_tokens: int
    n_supervised: int
    n_chosen_supervised: int
    n_views: int
    n_patches: int
    chosen_log_prob: float
    rejected_log_prob: float


class Dropped(Record):
    """A row that is not used: the step that dropped it, a reason in snake_case, and the detail."""

    step: str
    reason: str
    detail: str = ""


class Failed(Record):
    """A valid row that could not be processed this time.

    It is written to failed.jsonl and counts as done. To try it again, run the step into another output folder.
    """

    step: str
    reason: str
    detail: str = ""

"""Final form of rows in a built set: their origin, and chains of description as conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from sicog.chains import COD, COD_QUESTIONS, ChainError, parse
from sicog.config import Config
from sicog.curation.build.draw import DrawnRow
from sicog.curation.overlap.image_pass import Pictures
from sicog.curation.score.self_consistency import hash128
from sicog.curation.select.threshold import Threshold, stored_agreement
from sicog.records import Example, Record, Turn
from sicog.tasks import CAPTIONING, REASONING, TASKS, TaskSpec

MULTI_TURN = "multi_turn"  # the key in `extra`
# Source names that `sicog annotate` writes, and the styles of their prompts.
_ANNOTATED: Mapping[str, tuple[TaskSpec, tuple[str, ...]]] = {
    "revise-cod": (CAPTIONING, ("cod", "cod-conv")),
    "revise-dd": (CAPTIONING, ("dd",)),
    "revise-cot": (REASONING, ("cot",)),
    "revise-short": (REASONING, ("direct", "plain")),
}


class MultiTurnConfig(Config):
    """Chains of description as conversations: one turn per step, the image in the first turn."""

    share: float = Field(gt=0, le=1)
    """Share of the qualifying chains to convert, sampled by the seed and the row's id."""
    min_score: float | None = Field(default=None, ge=-1, le=1)
    """Minimum score of a chain, a threshold as in `select`: stated for three candidates, compared as agreement. null:
    all chains qualify."""


class Origin(Record):
    """Origin of a row of the set; unknown values are None.

    sha256: digest of each image file, when images were read. k: number of candidates that were compared.
    """

    original_id: str
    source: str
    task: str | None
    images: tuple[str, ...]
    sha256: tuple[str, ...] | None
    repetition: int
    multi_turn: bool
    style: str | None
    checkpoint: str | None
    index: int | None
    seed: int | None
    score: float | None
    agreement: float | None
    vote: float | None
    margin: float | None
    k: int | None


@dataclass(frozen=True)
class Finish:
    """Process of the stage: make the training example and its origin."""

    multi_turn: MultiTurnConfig | None
    seed: int
    pictures: Pictures | None

    def __call__(self, block: Sequence[DrawnRow]) -> list[tuple[Example, Origin]]:
        return [self._one(row) for row in block]

    def _one(self, row: DrawnRow) -> tuple[Example, Origin]:
        example = self._as_conversation(row.example)
        return example, self._origin(row, as_conversation=example is not row.example)

    def _as_conversation(self, example: Example) -> Example:
        if self.multi_turn is None or not qualifies(example, self.multi_turn.min_score):
            return example
        if hash128(self.seed, MULTI_TURN, example.id) >= self.multi_turn.share * 2**128:
            return example
        return conversation(example) or example

    def _origin(self, row: DrawnRow, *, as_conversation: bool) -> Origin:
        candidate, images = row.example.origin, row.example.images
        sha256 = [self.pictures.sha256_of(name) for name in images] if self.pictures else []
        task, style = _task_and_style(row)
        return Origin(
            id=row.id,
            original_id=row.original_id,
            source=row.example.source,
            task=task,
            images=images,
            sha256=tuple(digest for digest in sha256 if digest) if self.pictures else None,
            repetition=row.repetition,
            multi_turn=as_conversation,
            style=style,
            checkpoint=candidate.checkpoint,
            index=candidate.index,
            seed=candidate.seed,
            score=candidate.score,
            agreement=candidate.agreement,
            vote=candidate.vote,
            margin=candidate.margin,
            k=candidate.k,
        )


def _task_and_style(row: DrawnRow) -> tuple[str | None, str | None]:
    """Return task and style as `select` wrote them; for an annotated row, the style of its prompt."""
    style = row.example.origin.style
    if style is not None or row.task not in _ANNOTATED:
        return _task(row.task, style), style
    task, names = _ANNOTATED[row.task]
    prompt = next(turn.text for turn in row.example.turns if turn.role == "user")
    return task.name, next((name for name in names if task.style(name).asked(prompt)), None)


def _task(source: str, style: object) -> str | None:
    """Return the task that `select` wrote, else the only task with this style."""
    if source in TASKS:
        return source
    named = [task.name for task in TASKS.values() if isinstance(style, str) and style in task.styles]
    return named[0] if len(named) == 1 else None


def qualifies(example: Example, min_score: float | None) -> bool:
    """Return whether an example is a question and a chain of description with a sufficient score."""
    style = CAPTIONING.styles.get(example.origin.style or "")
    if style is None or style.chain is not COD or [t.role for t in example.turns] != ["user", "assistant"]:
        return False
    if min_score is None:
        return True
    agreement = stored_agreement(example.origin)
    return agreement is not None and agreement >= Threshold(min_score).agreement


def conversation(example: Example) -> Example | None:
    """Return the chain as a conversation with one turn per step; None when the text is not a chain."""
    try:
        bodies = parse(COD, example.turns[1].text)
    except ChainError:
        return None
    turns = []
    for k, (question, body) in enumerate(zip(COD_QUESTIONS, bodies, strict=True)):
        turns.append(Turn(role="user", text=question, images_at=() if k else (0,) * len(example.images)))
        turns.append(Turn(role="assistant", text=body))
    return example.model_copy(update={"turns": tuple(turns), "extra": {**example.extra, MULTI_TURN: True}})

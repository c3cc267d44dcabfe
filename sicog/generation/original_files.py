"""Import and export candidates in the original's files: the output of its sampling and the input of its curation.

A sampling run of the original writes one text per row, under `generated_caption` or `generated_thought`. Its curation
reads rows with a list `candidates`, of equal length in all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field, model_validator

from sicog.chains import ChainError, parse
from sicog.config import Config
from sicog.data.rows.users_rows import open_users_rows
from sicog.formats import MARKER, QueryParser, Row, RowError, first_value
from sicog.records import Candidate, CandidateSet, Query
from sicog.stages.runner import Stage, run_stage
from sicog.stages.storage import atomic_write, read_records
from sicog.tasks import TASKS

GENERATED = {"captioning": "generated_caption", "reasoning": "generated_thought"}
LIST = "candidates"
# The assumed style of a text: the task's chain if the text is one, else the plain style.
_STYLES = {"captioning": ("cod", "dd"), "reasoning": ("cot", "plain")}


class ImportCandidatesConfig(Config):
    """Config of `sicog import-candidates`."""

    volatile: ClassVar[frozenset[str]] = frozenset({"max_dropped_share"})
    of_rows: ClassVar[tuple[str, ...]] = ("input",)
    input: Path
    """A JSON list or JSONL of the original, with `generated_caption`, `generated_thought` or `candidates`."""
    out_dir: Path
    task: Literal["captioning", "reasoning"]
    """The task of the texts."""
    style: str | None = None
    """Style of all texts; null: cod or cot for texts that are chains, else dd or plain."""
    seed: int = Field(default=0, ge=0)
    """Number of the run, which `sicog group` needs to tell runs apart. Give each file another one."""
    checkpoint: str = "unknown"
    """Name or digest of the model that wrote the texts, stored in the candidates."""
    block_size: int = Field(default=256, ge=1)
    max_dropped_share: float | None = Field(default=0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _check_style(self) -> ImportCandidatesConfig:
        if self.style is not None:
            TASKS[self.task].style(self.style)
        return self


def import_candidates(config: ImportCandidatesConfig) -> Path:
    """Write the candidate sets of a file of the original. Returns the folder, for `sicog group` or `sicog curate`.

    The files do not store how an answer ended or its length. So all count as finished, with `n_tokens` 0.
    """
    return run_stage(
        Stage(
            step="import-candidates",
            out_dir=config.out_dir,
            source=open_users_rows(config.input, _Parser(config)),
            process=_rows_unchanged,
            inputs={"input": config.input},
        ),
        config,
    )


def _rows_unchanged(block: Sequence[CandidateSet]) -> list[tuple[CandidateSet]]:
    return [(row,) for row in block]


@dataclass(frozen=True)
class _Parser:
    config: ImportCandidatesConfig

    def __call__(self, row: Row, row_id: str) -> CandidateSet:
        query = QueryParser(self.config.task)(row, row_id)
        extra = {key: value for key, value in query.extra.items() if key not in (LIST, *GENERATED.values())}
        query = query.model_copy(update={"extra": extra})
        indices: Counter[str] = Counter()
        candidates = []
        for text in self._texts(row):
            style = self.config.style or self._style(text)
            candidates.append(self._candidate(query, style, indices[style], text))
            indices[style] += 1
        return CandidateSet(id=row_id, query=query, candidates=tuple(candidates))

    def _texts(self, row: Row) -> list[str]:
        found = first_value(row, LIST, GENERATED[self.config.task])
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            keys = f"{GENERATED[self.config.task]} (a text) or {LIST} (a list of texts)"
            raise RowError("no_candidates", f"a row of {self.config.task} needs {keys}")
        return texts

    def _style(self, text: str) -> str:
        chained, plain = _STYLES[self.config.task]
        chain = TASKS[self.config.task].style(chained).chain
        assert chain is not None
        try:
            parse(chain, text)
        except ChainError:
            return plain
        return chained

    def _candidate(self, query: Query, style: str, index: int, text: str) -> Candidate:
        return Candidate(
            query_id=query.id,
            style=style,
            prompt=TASKS[query.task].prompt(query, style),
            index=index,
            seed=self.config.seed,
            text=text,
            finish_reason="stop",
            n_tokens=0,
            checkpoint=self.config.checkpoint,
        )


def export_candidates(folder: Path, out: Path, *, form: Literal["candidates", "generated"] = "candidates") -> int:
    """Write candidate sets as a JSON list of the original. Returns the number of rows.

    form: `candidates` is the input of its curation, `generated` the output of its sampling (one candidate per row).
    Raises `ValueError` if rows have different numbers of candidates, because the original cannot read them.
    """
    n = 0
    with atomic_write(out) as file:
        file.write(b"[")
        for n, row in enumerate(_export_rows(folder, form), 1):
            file.write((b"\n" if n == 1 else b",\n") + orjson.dumps(row))
        file.write(b"\n]\n")
    return n


def _export_rows(folder: Path, form: str) -> Iterator[dict[str, Any]]:
    wanted: int | None = 1 if form == "generated" else None
    for row in read_records(folder, CandidateSet):
        texts = [candidate.text for candidate in row.candidates]
        wanted = len(texts) if wanted is None else wanted
        if len(texts) != wanted:
            raise ValueError(
                f"row {row.id} of {folder} has {len(texts)} candidates where {wanted} are needed: the original reads "
                f"the same number in every row; group runs of one input, or export each run by itself"
            )
        yield _row(row, texts, form)


def _row(row: CandidateSet, texts: list[str], form: str) -> dict[str, Any]:
    query = row.query
    if query.task not in GENERATED:
        raise ValueError(f"row {row.id} has task {query.task}, which the original does not have")
    image: dict[str, Any] = {}
    if query.images:
        image["image"] = query.images[0] if len(query.images) == 1 else list(query.images)
    question = query.question or row.candidates[0].prompt
    turn = {"from": "human", "value": (MARKER * len(query.images) + "\n" if query.images else "") + question}
    answer = {GENERATED[query.task]: texts[0]} if form == "generated" else {LIST: texts}
    return {**query.extra, "id": row.id, **image, "conversations": [turn], **answer}

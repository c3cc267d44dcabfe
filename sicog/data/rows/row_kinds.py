"""Recognise the purpose of rows: training, preferences, or input of a step that makes such rows.

Users' rows are recognised by their keys (docs/formats.md), our own datasets by the type of their first record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from sicog.data.preferences import parse_pair
from sicog.data.rows.file_kinds import SourceFiles, find_files
from sicog.data.rows.users_rows import UsersRows, open_users_rows
from sicog.formats import QueryParser, parse_example
from sicog.formats.json_rows import loads
from sicog.formats.row_keys import MARKER, Row, RowError, caption_of, first_value, image_names, turn_columns, turns_of
from sicog.records import CandidateSet, Dropped, Example, PreferencePair, Query, Record, ScoredSet
from sicog.stages.reader import FolderSource, Source
from sicog.tasks import CAPTION_REQUEST

_LOOKED_AT = 200  # rows read from each source
_GENERATED = ("candidates", "generated_caption", "generated_thought")


@dataclass(frozen=True)
class RowKind:
    """A kind of rows: its name, the command that reads it, and the parser of a user's row."""

    name: str
    read_by: str
    parse: Callable[[Row, str], Record]
    unique_ids: bool = True  # a second row with the same id is dropped


def _parse_caption(row: Row, row_id: str) -> Query:
    query = QueryParser("captioning")(row, row_id)
    caption_of(row)
    return query


def _parse_candidates(row: Row, row_id: str) -> Query:
    texts = first_value(row, *_GENERATED)
    if not all(isinstance(text, str) for text in (texts if isinstance(texts, list) else [texts])):
        raise RowError("no_candidates", "a row needs candidates (a list of texts), or one generated text")
    return QueryParser("reasoning" if _has_question(row) else "captioning")(row, row_id)


EXAMPLES = RowKind("rows to train on", "sicog train", parse_example, unique_ids=False)
PAIRS = RowKind("preference pairs", "sicog train (uhdv1-dpo.sh)", parse_pair, unique_ids=False)
CAPTIONS = RowKind("captions to annotate", "sicog annotate task=captioning", _parse_caption)
CANDIDATES = RowKind("candidates to import", "sicog import-candidates", _parse_candidates)
IMAGES = RowKind("unlabelled images", "sicog sample task=captioning", QueryParser("captioning"))
QUESTIONS = RowKind("unlabelled questions", "sicog sample task=reasoning", QueryParser("reasoning"))
QUERIES = RowKind("queries", "sicog sample", QueryParser("reasoning"))
SETS = RowKind("candidate sets", "sicog score", _parse_candidates)
_DATASETS: tuple[tuple[type[Record], RowKind], ...] = (
    (Example, EXAMPLES),
    (PreferencePair, PAIRS),
    (Query, QUERIES),
    (CandidateSet, SETS),
    (ScoredSet, SETS),
)


def kind_of(paths: Sequence[Path]) -> RowKind:
    """The kind of most of the first rows of these sources; training rows if no row has recognisable keys.

    Raises `ValueError` if a source cannot be read.
    """
    votes: Counter[RowKind] = Counter()
    for path in paths:
        source = find_files(path)
        if source.kind == "dataset":
            votes[_record_type(source)[1]] += _LOOKED_AT
            continue
        rows = (row.value for row in UsersRows(source, names_only=False) if not isinstance(row, Dropped))
        votes.update(kind for row in islice(rows, _LOOKED_AT) if (kind := _kind_of_row(row)))
    return max(votes, key=lambda kind: (votes[kind], kind is EXAMPLES), default=EXAMPLES)


def open_kind(path: Path, kind: RowKind) -> Source[Any]:
    """All rows of a source as records of this kind. Other rows come as `Dropped`."""
    source = find_files(path)
    if source.kind == "dataset":
        return FolderSource(path, _record_type(source)[0], step="read")
    return open_users_rows(path, kind.parse, unique_ids=kind.unique_ids)


def _record_type(source: SourceFiles) -> tuple[type[Record], RowKind]:
    """The type of a dataset's first record. A dataset without a record is one of examples."""
    for path in source.files:
        with path.open("rb") as file:
            first = file.readline()
        for record_type, kind in _DATASETS if first else ():
            try:
                record_type.model_validate_json(first)
            except ValueError:
                continue
            return record_type, kind
    return _DATASETS[0]


def _kind_of_row(value: Any) -> RowKind | None:
    """The kind of a row by its keys, or None."""
    try:
        row = loads(value) if isinstance(value, bytes) else value
        return _kind_by_keys(row) if isinstance(row, dict) else None
    except (orjson.JSONDecodeError, RowError):
        return None


def _kind_by_keys(row: Row) -> RowKind | None:
    if {"chosen", "rejected"} <= row.keys() or {"output_1", "output_2"} <= row.keys():
        return PAIRS
    if first_value(row, *_GENERATED) is not None:
        return CANDIDATES
    if _has_answer(row):
        return EXAMPLES
    if first_value(row, "caption", "cod_caption") is not None:
        return CAPTIONS
    if turn_columns(row) == ("text",):
        return EXAMPLES
    if _has_question(row):
        return QUESTIONS
    is_image = _questions(row) or first_value(row, "conversations", "messages") is None
    return IMAGES if is_image and image_names(row) else None


def _has_answer(row: Row) -> bool:
    turns = turns_of(row, required=False)
    return any(role == "assistant" for role, _ in turns) or (bool(turns) and first_value(row, "answer") is not None)


def _has_question(row: Row) -> bool:
    """Whether a row asks a real question. Files of unlabelled images often have a request for a caption."""
    return any(not question.startswith(CAPTION_REQUEST) for question in _questions(row))


def _questions(row: Row) -> list[str]:
    asked = (text.replace(MARKER, "").strip() for role, text in turns_of(row, required=False) if role == "user")
    return [question for question in asked if question]

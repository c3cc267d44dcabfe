"""`sicog data check` for rows that are not training rows: read each row, find and open its images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from sicog.data.image_folder import ImageFolder
from sicog.data.images import ImageProblem
from sicog.data.mixture import Source, chosen_rows
from sicog.data.rows.row_kinds import RowKind, open_kind
from sicog.progress import with_progress
from sicog.records import CandidateSet, Dropped, PreferencePair, Query, Record, ScoredSet

_IDS_SHOWN = 5
_IMAGES_KEPT = 1 << 16


def report_of_kind(sources: Sequence[Source], kind: RowKind, images: ImageFolder, seed: int) -> dict[str, Any]:
    """Counts of read, usable and dropped rows of sources of this kind. `take` and `weight` work as in training."""
    dropped: list[Dropped] = []
    reports = []
    rows_in = usable = left = 0
    for number, source in enumerate(sources):
        counts, drops, n_left = _check_source(source, kind, images, f"{seed}:{number}")
        reports.append(counts)
        dropped += drops
        rows_in, usable, left = rows_in + counts["rows"], usable + counts["usable"], left + n_left
    return {
        "kind": kind.name,
        "read_by": kind.read_by,
        "rows_in": rows_in,
        "rows_usable": usable,
        "left_out": left,
        "sources": reports,
        "dropped": group_by_reason(dropped),
    }


def _check_source(
    source: Source, kind: RowKind, images: ImageFolder, seed: str
) -> tuple[dict[str, Any], list[Dropped], int]:
    """(counts, drops, rows that `take` and `weight` leave out). All images of readable rows are checked."""
    rows = open_kind(source.path, kind)
    unreadable: list[Dropped] = []
    problems: dict[int, Dropped] = {}  # by the number of the row among readable rows
    names: list[int] = []
    problem_of = lru_cache(_IMAGES_KEPT)(lambda name: _problem(images, name))
    for row in with_progress(rows.read(0, len(rows)), f"reading {source.path.name}", len(rows)):
        if isinstance(row, Dropped):
            unreadable.append(row)
            continue
        shows = images_of(row)
        if problem := next(filter(None, map(problem_of, shows)), None):
            problems[len(names)] = Dropped(id=row.id, step="read", reason=problem.reason, detail=str(problem))
        names.append(len(shows))
    chosen, left = chosen_rows(source, len(names), seed)
    drops = [problems[number] for number in chosen.tolist() if number in problems]
    counts = {
        "path": str(source.path),
        "rows": len(chosen) + len(unreadable),
        "usable": len(chosen) - len(drops),
        "text_only": sum(names[number] == 0 for number in chosen.tolist()),
        "images": sum(names[number] for number in chosen.tolist()),
    }
    return counts, [*unreadable, *drops], left


def images_of(row: Record) -> tuple[str, ...]:
    """The names of a record's images."""
    if isinstance(row, (CandidateSet, ScoredSet)):
        return row.query.images
    assert isinstance(row, (Query, PreferencePair))
    return row.images


def group_by_reason(drops: Iterable[Dropped]) -> dict[str, dict[str, Any]]:
    """The number of dropped rows for each reason, most frequent first, with examples."""
    found: dict[str, dict[str, Any]] = {}
    for drop in drops:
        of_reason = found.setdefault(drop.reason, {"rows": 0, "first": []})
        of_reason["rows"] += 1
        if len(of_reason["first"]) < _IDS_SHOWN:
            of_reason["first"].append({"id": drop.id, "detail": drop.detail})
    return dict(sorted(found.items(), key=lambda item: -item[1]["rows"]))


def _problem(images: ImageFolder, name: str) -> ImageProblem | None:
    try:
        images.measure(images.find(name))
    except ImageProblem as problem:
        return problem
    return None

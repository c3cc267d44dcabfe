"""The selection rule: choose a candidate of each row, and keep or drop the row, for all rows of some columns at once.

`select`, its sweep and table of thresholds, the report and the search for near-duplicates all ask here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from sicog.curation.score.columns import EXCLUDED, Columns
from sicog.curation.score.self_consistency import choose_each
from sicog.curation.select.threshold import By, Threshold, agreement_of
from sicog.stages.reader import UNREADABLE
from sicog.tasks import TASKS

KEPT = ""
LOW = "low_consistency"  # the one reason that another threshold undoes
TOO_FEW = "too_few_candidates"
ALL_CUT = "all_cut"
PARSE_FAILURE = "parse_failure"
NO_CANDIDATE = "no_candidate"
Reasons = Mapping[str, tuple[str, str]]  # row id -> reason, detail


def _check_styles(styles: tuple[str, ...]) -> tuple[str, ...]:
    known = list(dict.fromkeys(style for task in TASKS.values() for style in task.styles))
    if unknown := [style for style in styles if style not in known]:
        raise ValueError(f"unknown style {unknown[0]!r}; known: {', '.join(known)}")
    return styles


Styles = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_check_styles)]  # that may be chosen


@dataclass(frozen=True)
class Rule:
    """Selection rule, see `SelectConfig`. threshold: None keeps every row that has a candidate to choose."""

    by: By
    threshold: Threshold | None
    styles: tuple[str, ...] | None
    min_candidates: int


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on R rows.

    reasons: of a drop, `KEPT` for kept rows; details of the drops. chosen: place of the chosen candidate, -1 when none
    is eligible. agreement: with the other candidates, nan for none. k: number of compared candidates.
    """

    reasons: list[str]
    details: list[str]
    chosen: NDArray[np.int64]
    agreement: NDArray[np.float64]
    k: NDArray[np.int64]


def verdicts(columns: Columns, rule: Rule, exclude: Reasons) -> Verdicts:
    """Return the verdict on each row.

    Of several reasons the first one counts, in this order: unreadable, excluded by id, no comparable candidate, too few
    comparable candidates, no candidate of the styles, low consistency.
    """
    _check_rankable(columns, rule)
    return decide(columns, rule, exclude)


def decide(columns: Columns, rule: Rule, exclude: Reasons) -> Verdicts:
    """Return the verdicts without checks; a row whose candidates have no values to rank by is dropped."""
    k_R = columns.per_row(is_compared(columns))
    chosen_R = best_candidates(columns, rule)
    agreement_R = agreement_at(columns, rule.by, chosen_R)
    cut = rule.threshold.agreement if rule.threshold else -1.0
    keeps_R = (k_R >= rule.min_candidates) & (agreement_R >= cut)
    reasons, details = [KEPT] * len(k_R), [""] * len(k_R)
    for row in np.flatnonzero(~keeps_R | np.array([i in exclude for i in columns.ids], dtype=bool)).tolist():
        reasons[row], details[row] = exclude.get(columns.ids[row]) or _drop_reason(columns, rule, row, k_R, agreement_R)
    return Verdicts(reasons, details, chosen_R, agreement_R, k_R)


def is_compared(columns: Columns) -> NDArray[np.bool_]:
    """Return bool [N]: the candidates that were compared with the others of their row."""
    return columns.excluded.codes < 0


def eligible(columns: Columns, styles: Sequence[str] | None) -> NDArray[np.bool_]:
    """Return bool [N]: the candidates that may be chosen."""
    if styles is None:
        return is_compared(columns)
    return is_compared(columns) & np.isin(columns.style.codes, [columns.style.code(s) for s in styles])


def best_candidates(columns: Columns, rule: Rule) -> NDArray[np.int64]:
    """Return int64 [R]: the place of the best candidate that may be chosen; -1 for none."""
    score_N = np.nan_to_num(columns.score, nan=-2.0)
    ranks = [score_N] if rule.by == "score" else [np.nan_to_num(columns.vote, nan=-2.0), score_N]
    return choose_each(ranks, eligible(columns, rule.styles), columns.sizes)


def agreement_at(columns: Columns, by: By, chosen_R: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return float64 [R]: the agreement of the candidate at a place of each row; nan for no candidate, or K = 1."""
    k_R = columns.per_row(is_compared(columns))
    value_R = np.full(len(k_R), np.nan)
    found_R = (chosen_R >= 0) & (k_R > 1)
    of_R = (np.cumsum(columns.sizes) - columns.sizes + chosen_R)[found_R]
    if by == "score":
        given, derived = columns.agreement[of_R], agreement_of(columns.score[of_R], k_R[found_R])
        value_R[found_R] = np.where(np.isnan(given), derived, given)
    else:
        value_R[found_R] = agreement_of(columns.vote[of_R], k_R[found_R])
    return value_R


def _check_rankable(columns: Columns, rule: Rule) -> None:
    """Raise `ValueError` when rows have no values to rank by, or the threshold does not match them."""
    marks_N = columns.score if rule.by == "score" else columns.vote
    if (missing_N := is_compared(columns) & np.isnan(marks_N)).any():
        row = int(np.repeat(np.arange(len(columns.sizes)), columns.sizes)[missing_N.argmax()])
        task = columns.task.names[columns.task.codes[row]]
        if rule.by == "score":
            how = "has no scores, only votes. Use by: vote"
        elif TASKS[task].votes:
            how = "has no votes. Score it with scorer: answer or both, or use by: score"
        else:
            how = f"has no votes, because {task} has no short answers. Use by: score"
        raise ValueError(f"row {columns.ids[row]} {how}")
    if rule.threshold is not None:
        kinds_R = columns.task.codes.astype(np.int64) * (len(columns.encoder.names) + 1) + columns.encoder.codes
        for row in np.unique(kinds_R, return_index=True)[1].tolist():
            if columns.unreadable[row] is None:
                encoder = columns.encoder.names[columns.encoder.codes[row]]
                rule.threshold.check(columns.ids[row], columns.task.names[columns.task.codes[row]], encoder)


def _drop_reason(
    columns: Columns, rule: Rule, row: int, k_R: NDArray[np.int64], agreement_R: NDArray[np.float64]
) -> tuple[str, str]:
    if (broken := columns.unreadable[row]) is not None:
        return UNREADABLE, broken
    k, n = int(k_R[row]), int(columns.sizes[row])
    if k < rule.min_candidates or np.isnan(agreement_R[row]):
        start = int(columns.sizes[:row].sum())
        codes = columns.excluded.codes[start : start + n].tolist()
        out = [columns.excluded.names[code] for code in codes if code >= 0]
        counted = ", ".join(f"{out.count(reason)} {reason}" for reason in EXCLUDED if reason in out)
        detail = f"{k} of {n} can be compared{f' ({counted})' if counted else ''}"
        if n and not k:
            return ALL_CUT if set(out) == {"cut"} else PARSE_FAILURE, detail
        if k < rule.min_candidates:
            return TOO_FEW, f"{detail}, fewer than {rule.min_candidates}"
        return NO_CANDIDATE, f"no candidate of style {', '.join(rule.styles or ())} can be chosen"
    assert rule.threshold is not None
    cut = rule.threshold
    return LOW, f"agreement {agreement_R[row]:.6g} < {cut.agreement:.6g} ({cut.value:g} at {cut.k} candidates)"

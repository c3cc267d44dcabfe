"""Scores of open answers without an offline scorer in the kit: exact, contains, relaxed accuracy, ANLS; in [0, 1].

With several accepted answers the best score counts.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from sicog.answers import final_answer

TOLERANCE = 0.05  # relative tolerance of numbers in charts (Masry et al. 2022, ChartQA, section 5.1)
ANLS_FLOOR = 0.5  # a lower similarity counts as 0 (Biten et al. 2019, ST-VQA, equation 1)
Scorer = Callable[[str, str], float]


def score_answer(form: str, prediction: str, answers: Sequence[str]) -> float:
    """Return the score of a prediction against its accepted answers. Raises `ValueError` for a form without scorer."""
    if form not in SCORERS:
        raise ValueError(f"form {form!r} has no offline scorer. Use one of: {', '.join(SCORERS)}")
    return max((SCORERS[form](prediction, answer) for answer in answers), default=0.0)


def accepted_answers(cell: object) -> list[str]:
    """Return the accepted answers of a table cell: its text, or the texts of a list in JSON or Python notation."""
    text = str(cell).strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return [text]
        if isinstance(listed, list) and listed:
            return [str(item) for item in listed]
    return [text]


def exact_score(prediction: str, answer: str) -> float:
    """Return 1 when both are the same short answer after normalisation."""
    return float(final_answer(prediction) == final_answer(answer))


def contains_score(prediction: str, answer: str) -> float:
    """Return 1 when the prediction contains the answer, ignoring case and line breaks."""
    wanted = _plain(answer)
    return float(bool(wanted) and wanted in _plain(prediction))


def relaxed_score(prediction: str, answer: str) -> float:
    """Return 1 for a number within 5 % of the true one, or for the same words after normalisation."""
    stated, true = _number(prediction), _number(answer)
    if stated is not None and true is not None:
        return float(abs(stated - true) <= TOLERANCE * abs(true))
    return exact_score(prediction, answer)


def anls_score(prediction: str, answer: str) -> float:
    """Return the ANLS of one pair: 1 - Levenshtein distance / length of the longer text, 0 below a half."""
    stated, true = _plain(prediction), _plain(answer)
    longer = max(len(stated), len(true))
    similarity = 1.0 - levenshtein_distance(stated, true) / longer if longer else 1.0
    return similarity if similarity >= ANLS_FLOOR else 0.0


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {"short": exact_score, "document": anls_score, "chart": relaxed_score, "ocr": contains_score}
)


def levenshtein_distance(one: str, other: str) -> int:
    """Return the minimum number of characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _number(text: str) -> float | None:
    """Parse a number as in charts: with percent sign, commas for thousands, or a currency sign."""
    cleaned = text.strip().rstrip(".").removesuffix("%").strip().lstrip("$€£").replace(",", "")
    try:
        value = float(cleaned)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None

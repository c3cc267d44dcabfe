"""Scoring of each family of benchmarks, in one table: the kit's metric, and the contribution of each row to it.

A family has the kit's headline metric, the file with one row per question, the value of a row, and the formula from
rows to the figure, for intervals and tests. Scales differ: multiple choice 0 to 1, most others 0 to 100.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from sicog.evaluation.sampled.answer_scores import ANLS_FLOOR, accepted_answers

Row = Mapping[str, Any]
Ratio = tuple[np.ndarray, np.ndarray]  # float64 [N] each: contribution of every question to numerator and denominator
# MME's perception categories (Fu et al. 2023); its headline is their sum.
_MME_PERCEPTION = frozenset(
    ("OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene")
)


@dataclass(frozen=True)
class Question:
    """One scored question. value: its contribution in [0, 1]; group: what it shares with others (an image, a pair);
    category: set when the figure is a sum over categories."""

    id: str
    value: float
    group: str = ""
    category: str = ""
    stated: bool = False  # yes/no: the model's answer, and
    true: bool = False  # the truth; true for yes


@dataclass(frozen=True)
class Family:
    """metric: full key in status.json. scale: factor from the kit's figure to the paper's unit.

    suffix: end of the name of the file with the rows; `{judge}` stands for the judge's name. question: reads one row.
    figure: ratios of sums over the questions; the figure is 100 times their sum. judged: needs a judge model.
    """

    metric: str
    scale: float
    suffix: str
    question: Callable[[Row], Question]
    figure: Callable[[Sequence[Question]], list[Ratio]]
    unit: str = "%"
    judged: bool = False

    def headline(self, metrics: Mapping[str, Any]) -> tuple[str, float] | None:
        """Return (the metric's key, its value in the unit), or None when the kit did not write it."""
        for key, value in metrics.items():
            if re.fullmatch(self.metric, key) and isinstance(value, (int, float)):
                return key, self.scale * float(value)
        return None


def mean_ratio(questions: Sequence[Question]) -> list[Ratio]:
    """Return the mean value."""
    return [(np.array([q.value for q in questions]), np.ones(len(questions)))]


def f1_ratio(questions: Sequence[Question]) -> list[Ratio]:
    """Return F1 of the answer yes, POPE's headline in the kit; a question counts once for each of its categories."""
    stated, true = (np.array([getattr(q, name) for q in questions], dtype=float) for name in ("stated", "true"))
    times = np.array([1.0 + q.category.count(",") for q in questions])
    return [(2 * times * stated * true, times * (stated + true))]


def mme_ratios(questions: Sequence[Question]) -> list[Ratio]:
    """Return perception points: accuracy of questions plus accuracy of images per category (at most 2000)."""
    ratios: list[Ratio] = []
    values = np.array([q.value for q in questions])
    for category in sorted({q.category for q in questions} & _MME_PERCEPTION):
        inside = np.array([q.category == category for q in questions], dtype=float)
        images: dict[str, list[int]] = defaultdict(list)
        for i, question in enumerate(questions):
            if question.category == category:
                images[question.group].append(i)
        firsts, whole = np.zeros(len(questions)), np.zeros(len(questions))
        for members in images.values():  # count an image once, at its first question
            firsts[members[0]] = 1.0
            whole[members[0]] = min(values[i] for i in members)
        ratios += [(values * inside, inside), (whole, firsts)]
    return ratios


def _id(row: Row) -> str:
    return str(row["index"])


def _group(row: Row) -> str:
    """Return the column `group` of users' tables: what rows share, such as an image."""
    return str(row.get("group") or "")


def _hit(row: Row) -> Question:
    return Question(_id(row), float(row["hit"]), group=_group(row))


def _yes_no(row: Row) -> Question:
    return Question(
        _id(row),
        float(_is_true(row["score"])),
        group=_group(row) or str(row.get("image_path") or ""),
        category=str(row.get("category") or ""),
        stated=str(row["extracted"]) == "Yes",
        true=str(row["answer"]) == "Yes",
    )


def _anls(row: Row) -> Question:
    similarity = 1.0 - min(_number_list(row["eval_match"]))
    return Question(_id(row), similarity if similarity >= ANLS_FLOOR else 0.0)


def _relaxed_question(row: Row) -> Question:
    return Question(_id(row), float(max(_number_list(row["eval_match"]))))


def _scored_question(row: Row) -> Question:
    return Question(_id(row), float(row["score"]), group=_group(row))


def _ocr(row: Row) -> Question:
    """Apply the kit's rule for OCRBench again (the prediction contains the text); the kit keeps no file of rows."""
    formula = row["category"] == "Handwritten Mathematical Expression Recognition"

    def plain(text: str) -> str:
        text = text.strip().replace("\n", " ")
        return text.replace(" ", "") if formula else text.lower()

    said = plain(str(row["prediction"]))
    return Question(_id(row), float(any(plain(answer) in said for answer in accepted_answers(row["answer"]))))


def _mathvista(row: Row) -> Question:
    """Compare the judge's extracted answer as the benchmark's own script does; the kit does not store the result."""
    said, answer = str(row["res"]).strip(), str(row["answer"]).strip()
    if row["question_type"] == "multi_choice":
        return Question(_id(row), float(said == str(row["answer_option"]).strip()))
    kinds: dict[str, Callable[[str], Any]] = {"integer": lambda text: int(float(text)), "float": float}
    kind = kinds.get(str(row["answer_type"]), str)
    try:
        return Question(_id(row), float(kind(said) == kind(answer)))
    except ValueError:
        return Question(_id(row), 0.0)


def _is_true(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "1", "1.0")


def _number_list(value: Any) -> list[float]:
    """Parse a list of numbers as the kit writes it into a cell."""
    listed = value if isinstance(value, list) else ast.literal_eval(str(value))
    return [float(item) for item in listed]


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "choice": Family(r"split=[^|]*\|Overall|Overall", 100, "_{judge}_result", _hit, mean_ratio),
        "yes_no": Family("Overall", 1, "_auxmatch", _yes_no, mean_ratio),
        "pope": Family(r"split=Overall\|Overall", 1, "_auxmatch", _yes_no, f1_ratio, unit="% F1"),
        "mme": Family("perception", 1, "_auxmatch", _yes_no, mme_ratios, unit="points"),
        "docvqa": Family("Overall", 1, "_results", _anls, mean_ratio, unit="% ANLS"),
        "chartqa": Family("Overall", 1, "_results", _relaxed_question, mean_ratio),
        "ocrbench": Family("Final Score Norm", 1, "", _ocr, mean_ratio),
        "mathvista": Family(r"Task&Skill=Overall\|acc", 1, "_{judge}", _mathvista, mean_ratio, judged=True),
        "mmvet": Family(r"Category=Overall\|acc", 1, "_{judge}", _scored_question, mean_ratio, judged=True),
        "local": Family("Overall", 1, "_results", _scored_question, mean_ratio),
    }
)
OF_FORM: Mapping[str, str] = MappingProxyType({"choice": "choice", "yes_no": "yes_no"})

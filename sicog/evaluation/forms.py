"""Forms of benchmark questions in one table: the prompt of each, and the limit of its answer.

Prompts follow common public use (options with letters, one sentence that asks for the letter or for a word) and
`tasks.py`, so that evaluation prompts match training prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from types import MappingProxyType
from typing import Any, Literal

from sicog.chains import COT, ChainError, parse
from sicog.tasks import SHORT_ANSWER, STEP_BY_STEP, bare_question

FormName = Literal["choice", "yes_no", "short", "document", "chart", "ocr", "math", "open"]
Style = Literal["direct", "cot"]
LETTER = "Answer with the option's letter from the given choices directly."
COT_TOKENS = 1200


@dataclass(frozen=True)
class Prompt:
    """Image files, text of the user turn, positions of the images in it, and the answer's length limit."""

    images: tuple[str, ...]
    text: str
    images_at: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class Form:
    """`template` has `{question}` and optional `{options}`; `cot` is the template for chains of thought."""

    name: str
    template: str
    cot: str
    max_new_tokens: int

    def prompt(self, row: Mapping[str, Any], style: Style) -> str:
        """Return the user's text for a row of a kit table: question, hint, options with capital letters."""
        question = bare_question(str(row["question"]))
        if not _is_empty(hint := row.get("hint")):
            question = f"{hint}\n{question}"
        options = listed_options(row)
        if self.name == "choice" and not options:
            raise ValueError(
                f"row {row.get('index')}: a question of form 'choice' has no options. Add columns A, B, ..."
            )
        template = self.template if style == "direct" else self.cot
        return template.replace("{options}", options).replace("{question}", question)


def _word(name: str, max_new_tokens: int) -> Form:
    return Form(name, "{question} " + SHORT_ANSWER, "{question} " + STEP_BY_STEP, max_new_tokens)


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        form.name: form
        for form in (
            Form("choice", "{question}\n{options}\n" + LETTER, "{question}\n{options}\n" + STEP_BY_STEP, 32),
            _word("yes_no", 32),
            _word("short", 64),
            _word("document", 128),
            _word("chart", 64),
            # These questions state the form of the answer themselves, or want a full answer.
            Form("ocr", "{question}", "{question} " + STEP_BY_STEP, 256),
            Form("math", "{question}", "{question} " + STEP_BY_STEP, 512),
            Form("open", "{question}", "{question} " + STEP_BY_STEP, 512),
        )
    }
)


def listed_options(row: Mapping[str, Any]) -> str:
    """Return the options of a row, one per line with its letter; empty without options."""
    given = {letter: row.get(letter) for letter in ascii_uppercase}
    return "\n".join(f"{letter}. {text}" for letter, text in given.items() if not _is_empty(text))


def final_answer(text: str, style: Style) -> str:
    """Return the scored text: the conclusion of a chain of thought; a broken chain is scored as a whole."""
    if style == "direct":
        return text
    try:
        return parse(COT, text)[-1]
    except ChainError:
        return text


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))

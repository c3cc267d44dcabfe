"""Normalise the final answer of a text. Two texts give the same answer if their `final_answer` is equal.

Rules of equality (tests/test_answers.py has a table of cases):

- numbers: `1,000`, `1000.0`, `one thousand`; `0.5`, `1/2`, `half`; `3,5` and `007` are texts, not numbers;
- units: `5 cm`, `5cm`, `five centimeters`. `5` alone is another answer, because `5 cm` and `5 m` must differ. It is the
  same answer if the question names the unit. Words after a number that are in the question are removed
  (`3 cats` to `How many cats?`). Percent is a unit: `50%` is `50 percent`, but neither `50` nor `0.5`;
- choices: `A`, `(A)`, `A.`, `Option A`; where the question lists the choices, also `A. blue` and `blue`;
- yes and no: `Yes, it is.` is `yes`, but `No parking` and `No. 5` are texts;
- introductions: `The answer is`, `So`, `It is`. `The color is` is one only if the question asks for the color of one
  thing. For other questions (`Which is larger?`) the subject is the answer;
- articles, case, punctuation at the ends, British spellings of a few words, kinds of quotes, dashes and widths.

Negations stay: `not blue` is never `blue`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from sicog.numbers import number_at_start

_MARKER = re.compile(
    r"(?:\b(?:final|correct|right|best)\s+)?\b(?:answer|option|choice)\s*(?:is\s*:|is|are|:)\s*", re.IGNORECASE
)
_LEAD_IN = re.compile(r"^\s*(?:(?:so|thus|hence|therefore|finally),?\s+)?(?:(?:the|my)\s+)?" + _MARKER.pattern, re.I)
_CONNECTIVE = re.compile(r"^(?:so|thus|hence|therefore|finally|in conclusion|overall)\b,?\s+")
_REASON = re.compile(r",?\s+(?:because|since)\s.*$|(?<=\d),\s+(?:which|so|in total|altogether|in all)\b.*$", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<!\bno)[.!?;](?=\s|$)|(?<=\bno)[.](?=\s+[^\d\s]|\s*$)")
_YES_NO = re.compile(
    r"^(yes|no|yeah|yep|nope)"
    r"(?:$|\s*[,;:!\n]|\s*\.(?!\s*\d)|\s+-\s|"
    r"\s+(?:it|there|they|he|she|this|that|these|those|the|i|we|you|because|since)\b)"
)
_VERBS = r"(?:is|are|was|were|do|does|did|can|could|has|have|had|will|would|should)\b"
# Also after an introduction (`In the image, is there a cat?`), or at the end (`..., right?`), but not after another
# question word (`Which is larger, is it the cat?`).
_YES_NO_QUESTION = re.compile(
    rf"^{_VERBS}|.*\byes or no\b|"
    r"^(?!(?:what|which|where|who|whom|whose|why|how|when)\b)"
    rf"(?:.*[,:;.?\n]\s*{_VERBS}|.*,\s*(?:right|correct)\?$)",
    re.DOTALL,
)
_LETTER = re.compile(r"^(?:option |choice |letter )?[(\[]?([a-z])[)\].:]?$")
_LETTER_AND_TEXT = re.compile(r"^(?:option |choice )?[(\[]?([a-z])(?:[)\]][.:]?|[.:]|\s[-:])\s+(\S.*)$", re.DOTALL)
_LETTER_BEFORE_TEXT = re.compile(r"^(?:option |choice )?([a-z]),?\s+(\S.*)$", re.DOTALL)
_LETTER_IS_RIGHT = re.compile(
    r"^(?:option |choice )?[(\[]?([a-z])[)\]]?\s+is\s+(?:the\s+)?"
    r"(?:(?:correct|right|best)(?:\s+(?:answer|option|choice|one))?|answer)$"
)
_LISTED = re.compile(r"(?:^|[\s(\[,;])([A-Z])(?:[)\]][.:]?|[.:])\s+", re.MULTILINE)
_PRONOUN = re.compile(r"^(?:it|this|that|they|these|those|he|she)(?:'s|'re|\s+is|\s+are|\s+was|\s+were)\s+(?=\S)")
_THERE = re.compile(r"^there(?:'s|\s+is|\s+are|\s+was|\s+were)\s+(?=\S)")
_SUBJECT = re.compile(r"^((?:the|this|that|these|those|its|their)\s[\w' -]{1,80}?)\s(?:is|are|was|were)\s+(?=\S)")
# An attribute of one thing: `what color is the cup`, `what is the color of the cup`, `where is the cup`.
_ASKED = re.compile(
    r"^(?:what|which) (?P<noun>\w+) (?:is|are|was|were) (?:the|this|that|these|those) (?P<thing>[\w' -]+)\??$|"
    r"^(?:what|which) (?:is|are|was|were) the (?P<noun_of>\w+) (?:of|in|on) (?P<thing_of>[\w' -]+)\??$|"
    r"^where (?:is|are|was|were) (?:the|this|that|these|those) (?P<where>[\w' -]+)\??$"
)
_ARTICLES = frozenset({"a", "an", "the"})
_SMALL_WORDS = _ARTICLES | {"of", "in", "on", "this", "that", "these", "those", "its", "their", "image", "picture"}
_SPELLINGS = {"colour": "color", "grey": "gray", "centre": "center", "yeah": "yes", "yep": "yes", "nope": "no"}
_UNITS = {
    name: unit
    for unit, names in {
        "%": "% percent",
        "mm": "mm millimeter millimeters millimetre millimetres",
        "cm": "cm cms centimeter centimeters centimetre centimetres",
        "m": "m meter meters metre metres",
        "km": "km kms kilometer kilometers kilometre kilometres",
        "in": "in inch inches",
        "ft": "ft foot feet",
        "mi": "mi mile miles",
        "g": "g gram grams gramme grammes",
        "kg": "kg kgs kilogram kilograms",
        "lb": "lb lbs pound pounds",
        "ml": "ml milliliter milliliters millilitre millilitres",
        "l": "l liter liters litre litres",
        "s": "s sec secs second seconds",
        "min": "min mins minute minutes",
        "h": "h hr hrs hour hours",
        "deg": "deg ° degree degrees",
        "usd": "usd $ dollar dollars",
        "eur": "eur € euro euros",
        "mph": "mph",
    }.items()
    for name in names.split()
}
_NAMED_IN = re.compile(r"\bin (in|m|g|l|s|h)\b")  # as words of a question these mean other things
_ATTACHED = re.compile(r"^([-+]?[\d.,/]*\d)([%°$€]|[a-z]{1,3})$")
_CURRENCY = re.compile(r"^([-+]?)([$€])\s*(?=[\d.])")


@lru_cache(maxsize=65_536)  # the candidates of a set, and many sets, say the same
def final_answer(text: str, question: str = "") -> str:
    """The answer of a conclusion, for exact comparison; empty only if the text is blank.

    question: the question, with its choices if it lists them. Without it fewer answers count as equal.
    """
    plain, choices = _plain(text), _choices(question)
    asked = _plain(_LISTED.split(question, maxsplit=1)[0] if choices else question)
    statement, announced = _statement(plain)
    for clause in (statement, _clause(statement)):
        if letter := _choice(clause, choices):
            return letter
    first = statement.split("\n")[0].strip(" .")
    if choices and _LETTER.match(first) and (letter := _choice(first, choices)):  # the explanation stands below
        return letter
    if match := _LETTER_AND_TEXT.match(statement):  # of a choice that is not listed, or is listed with another text
        if announced and match.group(1) in choices and _sentence_of_no_choice(match.group(2), choices):
            return match.group(1)
        return f"{match.group(1)}: {final_answer(match.group(2))}"
    clause = _clause(statement)
    if yes := _yes_no(statement, asked):
        return yes
    clause = _without_copula(clause, asked)
    if letter := _choice(clause, choices):
        return letter
    words = _words(clause)
    if (number := _with_unit(words, set(), set())) in choices.values():
        return next(letter for letter, text in choices.items() if text == number)
    if (number := _with_unit(words, set(_words(asked)), _units_in_question(asked))) is not None:
        return number
    return " ".join(_without_articles(words)) or plain or text.strip()


def without_boilerplate(text: str) -> str:
    """The whole conclusion for embedding, without a leading `The answer is`.

    White space, quotes, asterisks and the full stop at its ends are removed. Paragraphs and case stay."""
    bare = _LEAD_IN.sub("", text, count=1).strip(" \t\r\n\"'*`")
    return bare.removesuffix(".").rstrip(" \t\r\n\"'*`") or text.strip()


def _plain(text: str) -> str:
    """Lower case, one kind of quotes, dashes, digits and spaces; `2½` and `10²` do not become `21/2` and `102`."""
    spread = "".join(_spread(before, char) for before, char in zip(" " + text, text, strict=False))
    plain = _MILLIONS.sub(r"\1 million", unicodedata.normalize("NFKC", spread).translate(_SIGNS)).casefold()
    plain = _IN_DOLLARS.sub(r"\1\2", _FRACTION.sub(r"\1/\2", plain)).replace("\\text", " ")
    plain = re.sub(r"\\[()\[\]]", " ", plain)
    plain = plain.replace("\\boxed", " ").replace("**", "").replace("__", "").replace("`", "")
    plain = re.sub(r"[{}]", " ", plain)
    return re.sub(r"[^\S\n]+", " ", plain).strip()


_TAGGED = re.compile(r"<answer>\s*(\S.*?)\s*</answer>", re.DOTALL)
_MILLIONS = re.compile(r"(\d)M\b")  # only the case distinguishes it from metres
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_IN_DOLLARS = re.compile(r"\$\s*(\\boxed\s*\{[^{}$]*\})\s*\$|^\s*\$([^$]+)\$(?=[.\s]*$)")
_SIGNS = str.maketrans("’‘“”–—−⁄", "''\"\"---/")


def _spread(before: str, char: str) -> str:
    kind = unicodedata.decomposition(char)
    if kind.startswith("<fraction>") and before.isdigit():
        return " " + char
    return "^" + char if kind.startswith("<super>") and not before.isspace() else char


def _sentence_of_no_choice(text: str, choices: dict[str, str]) -> bool:
    """Whether the sentence after `The answer is B.` explains it (`It barks.`) and is not the text of a choice."""
    return final_answer(text) not in choices.values() and len(text.split()) > 1


def _statement(plain: str) -> tuple[str, bool]:
    """(statement, whether it was announced): the rest of the line after the last `answer is`, else all but `So,`."""
    if tagged := _TAGGED.findall(plain):
        return tagged[-1].strip(" \n\"'*"), True
    marks = [m for m in _MARKER.finditer(plain) if m.end() < len(plain)]
    statement = plain[marks[-1].end() :].strip().split("\n")[0] if marks else plain
    return _CONNECTIVE.sub("", statement.strip()).strip(" \"'*"), bool(marks)


def _clause(statement: str) -> str:
    """The statement without its reason. Several sentences all stay, because any of them may be the answer."""
    sentences = [s for s in _SENTENCE_END.split(_REASON.sub("", statement)) if s.strip()]
    return sentences[0].strip() if len(sentences) == 1 else statement


def _choices(question: str) -> dict[str, str]:
    """The listed choices by letter, each as a normalised answer; empty unless the letters are A, B and so on."""
    marks = list(_LISTED.finditer(question))
    if len(marks) < 2 or [m.group(1) for m in marks] != [chr(ord("A") + i) for i in range(len(marks))]:
        return {}
    ends = [m.start() for m in marks[1:]] + [len(question)]
    choice_texts = (question[m.end() : end].strip().split("\n")[0] for m, end in zip(marks, ends, strict=True))
    return {m.group(1).lower(): final_answer(text.strip(" ,;(")) for m, text in zip(marks, choice_texts, strict=True)}


def _choice(clause: str, choices: dict[str, str]) -> str | None:
    """The chosen letter, if any. A letter with a text is that choice only if the text is the listed one."""
    bare = clause.strip(" .\"'*")
    if match := _LETTER.match(bare) or (_LETTER_IS_RIGHT.match(bare) if choices else None):
        letter = match.group(1)
        return letter if letter in choices or not choices else None
    if not choices:
        return None
    if match := _LETTER_AND_TEXT.match(clause):
        return match.group(1) if choices.get(match.group(1)) == final_answer(match.group(2)) else None
    # `B dog` is B where B is the dog, and `A dog` is not A where A is the cat.
    if (match := _LETTER_BEFORE_TEXT.match(clause)) and choices.get(match.group(1)) == final_answer(match.group(2)):
        return match.group(1)
    named = [letter for letter, text in choices.items() if text == " ".join(_without_articles(_words(clause)))]
    return named[0] if len(named) == 1 else None


def _yes_no(statement: str, asked: str) -> str | None:
    if asked and not _YES_NO_QUESTION.match(asked):
        return statement.strip(" .!") if statement.strip(" .!") in ("yes", "no") else None
    match = _YES_NO.match(statement)
    return _SPELLINGS.get(match.group(1), match.group(1)) if match else None


def _without_copula(clause: str, asked: str) -> str:
    """`it is blue` -> `blue`, `the color is blue` -> `blue` where the color of one thing was asked for."""
    if (_YES_NO_QUESTION.match(asked) and " or " not in asked) or "\n" in clause:
        return clause
    if match := _PRONOUN.match(clause):
        return clause[match.end() :]
    if (match := _THERE.match(clause)) and number_at_start(_words(clause[match.end() :])):
        return clause[match.end() :]
    match, question = _SUBJECT.match(clause), _ASKED.match(asked)
    if not match or not question or " or " in asked:
        return clause
    subject = set(_words(match.group(1))) - _SMALL_WORDS
    thing = question["thing"] or question["thing_of"] or question["where"]
    about = set(_words(thing)) | set(_words(question["noun"] or question["noun_of"] or ""))
    return clause[match.end() :] if subject and subject <= about else clause


def _words(clause: str) -> list[str]:
    """The words without punctuation at their ends. Hyphens between letters split words; commas stay inside numbers."""
    clause = (
        _CURRENCY.sub(lambda m: f"{m.group(1)}{m.group(2)} ", clause) if clause[:2].strip("-+")[:1] in "$€" else clause
    )
    clause = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", clause).replace("per cent", "percent")
    found = []
    for token in re.split(r"\s+|(?<=\D),|,(?=\D)", clause):
        bare = token.strip(".,;:!?\"'*()[]") if not re.fullmatch(r"\.\d+", token) else token
        if match := _ATTACHED.fullmatch(bare):
            unit = match.group(2)
            found += [match.group(1), unit] if unit in _UNITS else [bare]
        elif bare:
            found.append(_SPELLINGS.get(bare, bare))
    return found


def _units_in_question(asked: str) -> set[str]:
    """The units that a question asks for."""
    words = {word for word in _words(asked) if len(word) > 2 or word in ("mm", "cm", "km", "kg", "ml", "ft")}
    return {_UNITS[word] for word in [*words, *_NAMED_IN.findall(asked)] if word in _UNITS}


def _with_unit(words: list[str], asked: set[str], units: set[str]) -> str | None:
    """A number, and its unit unless the question names it; None where the words are something else."""
    approximate = 1 if words[:1] in (["about"], ["approximately"], ["exactly"]) else 0
    words = words[approximate:]
    sign_first = words[0] if words and words[0] in ("$", "€") else None
    negative = words[:1] in (["minus"], ["negative"])
    found = number_at_start(words[1:] if sign_first or negative else words)
    if found is None:
        return None
    value, length = (-found[0], found[1] + 1) if negative else found
    rest = [sign_first] if sign_first else []
    rest += words[length + len(rest) :]
    if len(rest) == 1 and rest[0] in _UNITS:
        unit = _UNITS[rest[0]]
        return str(value) if unit in units else f"{value} {unit}"
    if all(word in asked for word in rest):
        return str(value)
    return " ".join([str(value), *_without_articles(rest)])


def _without_articles(words: list[str]) -> list[str]:
    """Remove articles, but never the last word: in `not a` the letter is a choice."""
    return [word for word in words[:-1] if word not in _ARTICLES] + words[-1:]

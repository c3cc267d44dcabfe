"""Parse numbers exactly as people write them: digits with separators, decimals, fractions, percent, words.

A number is a `Fraction`, so that `1,000`, `1000.0` and `one thousand` are the same and nothing is rounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

_UP_TO_NINETEEN = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: n for n, word in enumerate(_UP_TO_NINETEEN)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4}
_LONGEST = 40  # characters of a number: beyond that it is a text of digits

_INTEGER = r"(?:0|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*)"  # no leading zeros: 007 and 7 are different texts
_DECIMAL = re.compile(rf"[-+]?(?:{_INTEGER}(?:\.\d+)?|\.\d+)(?:e[-+]?\d{{1,2}})?")
_FRACTION = re.compile(rf"([-+]?)(?:({_INTEGER}) )?({_INTEGER}) ?/ ?([1-9]\d*)")


def number_at_start(words: list[str]) -> tuple[Fraction, int] | None:
    """The number at the start of the words (the longest match) and how many words it takes; or None.

    Words are lower case. `two hundred and five cats` gives 205 and 4; `3 1/2 cups` gives 7/2 and 2.
    """
    for length in (3, 2, 1):
        if length <= len(words) and (match := _FRACTION.fullmatch(" ".join(words[:length]))):
            return _fraction(match), length
    if words and len(words[0]) <= _LONGEST and _DECIMAL.fullmatch(words[0]):
        number = Fraction(words[0].replace(",", ""))
        if len(words) > 1 and words[1] in _SCALES and words[1] != "hundred":
            return number * _SCALES[words[1]], 2
        return number, 1
    return _from_words(words)


def _fraction(match: re.Match[str]) -> Fraction:
    sign, whole, above, below = match.groups()
    value = Fraction(int(above.replace(",", "")), int(below)) + (int(whole.replace(",", "")) if whole else 0)
    return -value if sign == "-" else value


def _from_words(words: list[str]) -> tuple[Fraction, int] | None:
    negative = bool(words) and words[0] in ("minus", "negative")
    found = _cardinal(words[negative:])
    if found is None:
        return None
    value, length = found
    return (-value if negative else value), length + negative


def _cardinal(words: list[str]) -> tuple[Fraction, int] | None:
    """`twenty one`, `a hundred and five`, `two thirds`, `half a dozen`, `a dozen`."""
    if words[:1] == ["half"]:
        return (Fraction(6), 3) if words[1:3] == ["a", "dozen"] else (Fraction(1, 2), 1)
    article = words[:1] in (["a"], ["an"])
    if article and len(words) > 1 and words[1] in _PARTS:
        return Fraction(1, _PARTS[words[1]]), 2
    if article and words[1:2] == ["dozen"]:
        return Fraction(12), 2
    if article and not (len(words) > 1 and words[1] in _SCALES):
        return None
    counted = _integer_words(words, 1 if article else 0, 1 if article else 0)
    if counted is None:
        return None
    value, end = counted
    if words[end : end + 1] == ["dozen"]:
        return Fraction(12 * value), end + 1
    if end < len(words) and words[end] in _PARTS and value < 20:
        return Fraction(value, _PARTS[words[end]]), end + 1
    return Fraction(value), end


def _integer_words(words: list[str], start: int, first: int) -> tuple[int, int] | None:
    """The integer in the words from `start` on, and where it ends. `first`: the value of an article before them."""
    total, group, end, last = 0, first, start, ""
    for place in range(start, len(words)):
        word = words[place]
        if word == "and" and last in _SCALES and place + 1 < len(words) and words[place + 1] in _WORDS:
            continue
        if word in _WORDS and _may_follow(last, _WORDS[word]):
            group += _WORDS[word]
        elif word == "hundred" and 0 < group < 20 and last != "hundred":
            group *= 100
        elif word in _SCALES and word != "hundred" and 0 < group < 1000:
            total, group = total + group * _SCALES[word], 0
        else:
            break
        end, last = place + 1, word
    return (total + group, end) if end > start else None


def _may_follow(last: str, value: int) -> bool:
    """Whether a number word may follow: one to nine after `twenty`, anything but zero after a scale."""
    if last in _WORDS:
        return _WORDS[last] >= 20 and 0 < value < 10
    return last == "" or value > 0

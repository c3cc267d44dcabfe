"""The one grammar of mixing, of `sicog mix`, `sicog build` and training: which rows of a source, and how many.

sources:
  - {path: captions/, take: all}            one of our dataset folders
  - {path: answers.jsonl, take: first:5000} a user's LLaVA or ShareGPT file
  - {path: text.json, take: random:20%}     N or N% of the rows; also end:N
  - {path: rare.parquet, weight: 2.5}       all taken rows twice, and a random half of them once more
  - {path: web.json, count: 4000}           so many of the taken rows; also at_most: 4000, where there may be fewer
  - {path: own.json, share: 0.2}            this share of the `total` of all sources

`take` chooses among the rows that can be used; of these, at most one of weight, count, at_most and share says how many
the source gives: all of them as often as they fit, then a random draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sicog.config import Config

WhenShort = Literal["error", "take_all"]
_TAKE = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")
_AMOUNTS = ("count", "weight", "share", "at_most")


class MixedSource(Config):
    """Rows of one source of a mixture."""

    of_rows: ClassVar[tuple[str, ...]] = ("path",)
    path: Path
    """A dataset folder, a folder of shards, or a file."""
    take: str | None = None
    """Which of the rows: `all`, `first:N`, `end:N`, or `random:N`, where N is a number of rows or a share such as 10%.
    """
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How often the rows are taken: 2 is twice, 2.25 is twice and a random quarter once more."""
    count: int | None = Field(default=None, ge=0)
    """So many rows."""
    share: float | None = Field(default=None, gt=0, le=1)
    """This share of the config's `total`."""
    at_most: int | None = Field(default=None, ge=0)
    """All rows, but no more than so many."""

    @field_validator("take")
    @classmethod
    def _check_take(cls, take: str | None) -> str | None:
        _parse_take(take)
        return take

    @model_validator(mode="after")
    def _check_amounts(self) -> MixedSource:
        fields = type(self).model_fields
        if len(given := [name for name in _AMOUNTS if getattr(self, name) != fields[name].default]) > 1:
            raise ValueError(f"source {self.title}: give {' or '.join(given)}, not both")
        return self

    @property
    def title(self) -> str:
        """The source as messages name it."""
        return str(self.path)

    def weighted_count(self, n: int) -> int:
        """How many rows `weight` makes of `n`. A part of a row is rounded up: 1.1 of 10 rows is one more, not two."""
        weight = 1.0 if self.weight is None else self.weight
        return int(weight) * n + math.ceil((weight - int(weight)) * n - 1e-9)


def _parse_take(take: str | None) -> tuple[str, float, bool]:
    """(which rows, number, whether the number is a percentage)."""
    if take in (None, "all"):
        return "first", 100.0, True
    if not (match := _TAKE.fullmatch(take)):
        raise ValueError(f"take must be all, first:N, end:N or random:N, N a number of rows or N%, got {take!r}")
    which, number, percent = match.group(1), float(match.group(2)), bool(match.group(3))
    if number <= 0 or (percent and number > 100) or (not percent and number != int(number)):
        raise ValueError(f"take {take!r}: N must be a whole number of rows above 0, or a share up to 100%")
    return which, number, percent


def amount_to_take(source: MixedSource, n_rows: int) -> tuple[str, int]:
    """Which of a source's `n_rows` usable rows `take` chooses (`first`, `end` or `random`), and how many."""
    which, number, percent = _parse_take(source.take)
    n = math.ceil(number * n_rows / 100) if percent else int(number)
    if n > n_rows:
        raise ValueError(f"{source.path} has {n_rows} usable rows, fewer than take {source.take!r} asks for")
    return which, n


def require_total(sources: Sequence[MixedSource], total: int | None) -> None:
    """Raises `ValueError` where sources give shares of nothing."""
    if total is None and (shares := [source.title for source in sources if source.share is not None]):
        raise ValueError(
            f"sources {', '.join(shares)} give a share: of how many rows, says total; `sicog mix` and `sicog build` "
            f"take it"
        )


def amounts(
    sources: Sequence[MixedSource],
    available: Sequence[int],
    total: int | None = None,
    when_short: WhenShort = "error",
) -> list[int]:
    """The number of rows of each source. Shares are rounded so that all rows together are `total`.

    available: how many rows of each `take` has chosen. Raises `ValueError` when a source has fewer rows than it is
    asked for, unless `when_short` is `take_all`, and when the amounts cannot be `total`.
    """
    require_total(sources, total)
    rows = [_fixed_count(source, n) for source, n in zip(sources, available, strict=True)]
    if total is not None:
        shares = {number: source.share for number, source in enumerate(sources) if source.share is not None}
        if rest := total - sum(rows):
            _split(rest, total, shares, rows, sources)
    fixed = [source.count is not None or source.share is not None for source in sources]
    short = [k for k, n in enumerate(available) if fixed[k] and rows[k] > n]
    if short and when_short == "error":
        tightest = min(short, key=lambda k: available[k] / (sources[k].share or 1))
        raise ValueError(_shortage_message(sources[tightest], rows[tightest], available[tightest], total))
    for k in short:
        rows[k] = available[k]
    return rows


def _fixed_count(source: MixedSource, n: int) -> int:
    if source.share is not None:
        return 0
    if source.count is not None:
        return source.count
    return min(n, source.at_most) if source.at_most is not None else source.weighted_count(n)


def _split(rest: int, total: int, shares: dict[int, float], rows: list[int], sources: Sequence[MixedSource]) -> None:
    """Give each source its share of the total, whole rows, the largest remainders rounded up."""
    exact = {number: share * total for number, share in shares.items()}
    loose = 1e-6 * total + (len(shares) if sum(rows) else 0)  # a share may stand for a count that it nearly is
    if not shares or abs(sum(exact.values()) - rest) > loose:
        fixed = [source.title for source in sources if source.share is None]
        others = f" beside the {sum(rows)} rows of {', '.join(fixed)}" if fixed else ""
        raise ValueError(
            f"the shares make {sum(exact.values()):.0f} of total {total} rows{others}, but {rest} are needed; "
            f"the shares, and what is given otherwise, must add up to 1"
        )
    whole = {number: int(value) for number, value in exact.items()}
    by_remainder = sorted(whole, key=lambda number: (whole[number] - exact[number], number))
    each, more = divmod(rest - sum(whole.values()), len(shares))
    for place, number in enumerate(by_remainder):
        rows[number] = whole[number] + each + (place < more)


def _shortage_message(source: MixedSource, wanted: int, n: int, total: int | None) -> str:
    holds = f"{source.path} holds {n} rows that can be used"
    if source.share is None or total is None:
        return (
            f"source {source.title}: count {wanted}, but {holds}; lower it, repeat rows with weight, or take what "
            f"there is with when_short: take_all"
        )
    return (
        f"source {source.title}: share {source.share:g} of total {total} is {wanted} rows, but {holds}; with these "
        f"shares total can be {int(n / source.share)} at most. Lower total or the share, or set when_short: take_all"
    )

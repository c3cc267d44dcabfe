"""How many rows each source of a built set gives: counts, weights, caps, or shares of a total."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sicog.config import Config

WhenShort = Literal["error", "take_all"]


class BuildSource(Config):
    """Rows to take from one source.

    Of the rows that remain after all drops, at most one of count, weight, share and at_most says how many are taken.
    """

    of_rows: ClassVar[tuple[str, ...]] = ("path",)
    name: str = Field(min_length=1)
    """Becomes the `source` of its rows."""
    path: Path
    """A dataset of examples, or a user's LLaVA or ShareGPT file or folder of files."""
    count: int | None = Field(default=None, ge=0)
    """So many rows."""
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """So many times all of them: 0.5 for half, 2 for each twice."""
    share: float | None = Field(default=None, gt=0, le=1)
    """This share of the config's `total`."""
    at_most: int | None = Field(default=None, ge=0)
    """All rows, but no more than so many."""
    weight_by: str | None = None
    """A number in the rows' `extra`, such as `agreement`, the support of a row's claims: rows are drawn in proportion
    to it, the same number of them in all. A row at twice the mean is there twice; at half of it, every second such row
    is."""
    exclude: tuple[Path, ...] = ()

    @model_validator(mode="after")
    def _one_amount(self) -> BuildSource:
        amounts = ("count", "weight", "share", "at_most")
        if len(given := [name for name in amounts if getattr(self, name) is not None]) > 1:
            raise ValueError(f"source {self.name}: give {' or '.join(given)}, not both")
        return self


def amounts(
    sources: Sequence[BuildSource], available: Sequence[int], total: int | None, when_short: WhenShort
) -> list[int]:
    """The number of rows of each source. Shares are rounded so that all rows together are `total`.

    Raises `ValueError` when a source has fewer rows than it is asked for, unless `when_short` is `take_all`, and when
    the amounts cannot be `total`.
    """
    rows = [_fixed(source, n) for source, n in zip(sources, available, strict=True)]
    if total is not None:
        shares = {number: source.share for number, source in enumerate(sources) if source.share is not None}
        if rest := total - sum(rows):
            _split(rest, total, shares, rows, sources)
    short = [k for k, n in enumerate(available) if rows[k] > n and sources[k].weight is None]
    if short and when_short == "error":
        tightest = min(short, key=lambda k: available[k] / (sources[k].share or 1))
        raise ValueError(_short(sources[tightest], rows[tightest], available[tightest], total))
    for k in short:
        rows[k] = available[k]
    return rows


def _fixed(source: BuildSource, n: int) -> int:
    if source.weight is not None:
        return int(source.weight * n + 0.5)
    if source.share is not None:
        return 0
    return source.count if source.count is not None else min(n, n if source.at_most is None else source.at_most)


def _split(rest: int, total: int, shares: dict[int, float], rows: list[int], sources: Sequence[BuildSource]) -> None:
    """Give each source its share of the total, whole rows, the largest remainders rounded up."""
    exact = {number: share * total for number, share in shares.items()}
    loose = 1e-6 * total + (len(shares) if sum(rows) else 0)  # a share may stand for a count that it nearly is
    if not shares or abs(sum(exact.values()) - rest) > loose:
        fixed = [source.name for source in sources if source.share is None]
        others = f" beside the {sum(rows)} rows of {', '.join(fixed)}" if fixed else ""
        raise ValueError(
            f"the shares make {sum(exact.values()):.0f} of total {total} rows{others}, but {rest} are needed; "
            f"the shares of a build, and what is given otherwise, must add up to 1"
        )
    whole = {number: int(value) for number, value in exact.items()}
    by_remainder = sorted(whole, key=lambda number: (whole[number] - exact[number], number))
    each, more = divmod(rest - sum(whole.values()), len(shares))
    for place, number in enumerate(by_remainder):
        rows[number] = whole[number] + each + (place < more)


def _short(source: BuildSource, wanted: int, n: int, total: int | None) -> str:
    holds = f"{source.path} holds {n} rows that can be used"
    if source.share is None or total is None:
        return (
            f"source {source.name}: count {wanted}, but {holds}; lower it, repeat rows with weight, or take what there "
            f"is with when_short: take_all"
        )
    return (
        f"source {source.name}: share {source.share:g} of total {total} is {wanted} rows, but {holds}; with these "
        f"shares total can be {int(n / source.share)} at most. Lower total or the share, or set when_short: take_all"
    )

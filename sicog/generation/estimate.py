"""`sicog sample --estimate`: tokens, hours and money of a run, from a short trial on some of its rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from sicog.console import stdout_console
from sicog.estimates.arithmetic.readable import large, small
from sicog.generation.config import SampleConfig
from sicog.generation.sample import SampleBlock, rows_of
from sicog.records import Candidate, CandidateSet, Dropped, Query

_FILLS = 2  # how many times the trial fills the batch


@dataclass(frozen=True)
class Estimate:
    """The measurements of a trial, and the estimate for all rows.

    rows: in the input. trial_rows: in the trial. dropped: by the trial. seconds, n_candidates, n_tokens (generated),
    n_cut: of the trial, without loading the model. hours: of the whole run with all workers in parallel. money: None
    without a price.
    """

    rows: int
    trial_rows: int
    dropped: int
    seconds: float
    n_candidates: int
    n_tokens: int
    n_cut: int
    hours: float
    money: float | None

    @property
    def scale(self) -> float:
        """Rows of the input per row of the trial."""
        return self.rows / self.trial_rows


def estimate(config: SampleConfig, console: Console | None = None) -> Estimate:
    """Sample a few rows, spread over the input; print and return the estimate for all rows. Writes nothing.

    At the end of the trial some slots of the batch are empty, so a long run is somewhat faster than estimated.
    Raises `ValueError` when the input has no rows, or when the trial would cost money.
    """
    if config.engine == "openai":
        raise ValueError(
            "--estimate samples a few rows, and at an endpoint they would be paid; set endpoint.prices and "
            "endpoint.budget, and run without --estimate"
        )
    source = rows_of(config)
    n = len(source)
    if not n:
        raise ValueError(f"{config.input} has no rows to try; give an input with at least one row")
    per_query = config.candidates_per_query
    n_trial = min(n, max(1, -(-_FILLS * config.batch_size // per_query)))
    rows = [row for i in range(n_trial) for row in source.read(i * n // n_trial, i * n // n_trial + 1)]
    queries = [row for row in rows if isinstance(row, Query)]
    block = SampleBlock(config)
    block(queries[:1])  # loads the model, and sets up everything for the first batch
    start = time.perf_counter()
    outcomes = block(queries)
    seconds = time.perf_counter() - start
    candidates = [c for outcome in outcomes for c in _candidates(outcome)]
    workers = config.launch.tasks if config.launch.on != "local" else config.workers
    machine_hours = seconds / n_trial * n / 3600
    found = Estimate(
        rows=n,
        trial_rows=n_trial,
        dropped=n_trial - len(queries) + sum(isinstance(outcome, Dropped) for outcome in outcomes),
        seconds=seconds,
        n_candidates=len(candidates),
        n_tokens=sum(c.n_tokens for c in candidates),
        n_cut=sum(c.finish_reason == "length" for c in candidates),
        hours=machine_hours / workers,
        money=None if config.price_per_hour is None else machine_hours * config.price_per_hour,
    )
    _show(found, workers, console or stdout_console())
    return found


def _candidates(outcome: object) -> Iterator[Candidate]:
    if not isinstance(outcome, Dropped):
        assert isinstance(outcome, list) and isinstance(outcome[0], CandidateSet)
        yield from outcome[0].candidates


def _show(e: Estimate, workers: int, console: Console) -> None:
    per_s = f"{e.n_candidates / e.seconds:.2f} candidates/s, {e.n_tokens / e.seconds:.0f} tokens/s"
    console.print(
        f"trial: {e.trial_rows} of {e.rows} rows, {e.dropped} dropped; {e.n_candidates} candidates with {e.n_tokens} "
        f"tokens in {e.seconds:.1f} s ({per_s}); {e.n_cut} cut by the length limit"
    )
    money = "" if e.money is None else f", {e.money:.2f} at the price given"
    console.print(
        f"all rows: about {e.n_candidates * e.scale:.0f} candidates, {large(e.n_tokens * e.scale)} tokens, "
        f"{small(e.hours)} h with {workers} worker{'s' if workers > 1 else ''} such as this{money}"
    )

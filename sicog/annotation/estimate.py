"""`sicog annotate --estimate`: rows, images, tokens, money and hours of a file. Asks no teacher, writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sicog.annotation.teacher import (
    CaptionRow,
    CaptionRowParser,
    Prompt,
    TeacherConfig,
    load_prompt,
    request_for,
    row_pictures,
)
from sicog.data.image_folder import ImageFolder
from sicog.data.images import ImageProblem
from sicog.data.rows.users_rows import open_users_rows
from sicog.progress import with_progress
from sicog.records import Dropped
from sicog.remote.store import AnswerStore, open_store


@dataclass
class Estimate:
    """Counts over a file. sizes: (width, height) of each image as sent."""

    rows: int = 0
    to_ask: int = 0
    stored: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    image_tokens: int = 0
    input_tokens: int = 0
    answer_tokens: float = 0.0  # tokens of one answer
    measured_on: int = 0  # number of stored answers that answer_tokens is the mean of; 0: the config's guess

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return round(self.to_ask * self.answer_tokens)

    def usd(self, config: TeacherConfig) -> float | None:
        """Return the price in US dollars; None without prices in the config."""
        prices = config.endpoint.prices
        return prices.usd(self.input_tokens, self.output_tokens) if prices else None

    def hours(self, config: TeacherConfig) -> float | None:
        """Return the minimum time under the rate limits; None without limits."""
        limits = config.endpoint
        minutes = []
        if limits.requests_per_minute:
            minutes.append(self.to_ask / limits.requests_per_minute)
        if limits.tokens_per_minute:
            minutes.append((self.input_tokens + self.output_tokens) / limits.tokens_per_minute)
        return max(minutes) / 60 if minutes else None

    def lines(self, config: TeacherConfig) -> Iterator[str]:
        """Yield the estimate as text."""
        unusable = ", ".join(f"{reason} {n}" for reason, n in self.unusable.most_common())
        yield f"rows: {self.rows}; to ask {self.to_ask}, answered before {self.stored}, unusable {unusable or 0}"
        if self.to_ask:
            width, height = median(w for w, _ in self.sizes), median(h for _, h in self.sizes)
            tokens = f"{self.image_tokens / len(self.sizes):.0f} tokens each"
            formula = f"width x height / {config.endpoint.pixels_per_token:g}"
            yield f"images: {len(self.sizes)}, sent at {width:.0f}x{height:.0f} (medians), {tokens} ({formula})"
        yield f"prompt tokens: {self.input_tokens:,} ({self.image_tokens:,} of images)"
        source = f"the mean of {self.measured_on} stored answers" if self.measured_on else "expected_answer_tokens"
        yield f"answer tokens: {self.output_tokens:,} ({self.answer_tokens:.0f} each: {source})"
        usd, hours = self.usd(config), self.hours(config)
        yield "money: no prices in the config" if usd is None else f"money: {usd:.2f} USD"
        yield "time: no rate limits in the config" if hours is None else f"time: {hours:.2f} hours at the rate limits"
        yield "An answer that cannot be used is asked again once: a bad teacher costs up to twice as much."


def estimate(config: TeacherConfig, input_file: Path, images: ImageFolder, answers: Path, asks: bool) -> Estimate:
    """Measure the rows of `input_file`. asks: whether every row needs its own question."""
    prompt, found = load_prompt(config.prompt), Estimate(answer_tokens=config.expected_answer_tokens)
    source = open_users_rows(input_file, CaptionRowParser(asks), step="estimate")
    # An estimate creates no folder, so the store is opened only if it exists.
    with open_store(answers) if (answers / "answers.sqlite").is_file() else nullcontext() as store:
        if store and (mean := store.mean_output(config.endpoint.model)):
            found.answer_tokens, found.measured_on = mean, store.count(config.endpoint.model)
        for row in with_progress(source, f"measuring {input_file.name}"):
            found.rows += 1
            if isinstance(row, Dropped):
                found.unusable[row.reason] += 1
            else:
                _add_row(found, row, config, prompt, images, store)
    return found


def _add_row(
    found: Estimate,
    row: CaptionRow,
    config: TeacherConfig,
    prompt: Prompt,
    images: ImageFolder,
    store: AnswerStore | None,
) -> None:
    try:
        pictures = row_pictures(row, images, config.max_side)
        sizes = [picture.size() for picture in pictures]
    except ImageProblem as problem:
        found.unusable[problem.reason] += 1
        return
    except (ValueError, OSError):
        found.unusable["image_broken"] += 1
        return
    request = request_for(row, pictures, config, prompt)
    if store and store.get(request.key(config.endpoint.model)):
        found.stored += 1
        return
    per_token = config.endpoint.pixels_per_token
    found.to_ask += 1
    found.sizes += sizes
    found.image_tokens += sum(picture.tokens(per_token) for picture in pictures)
    found.input_tokens += request.input_tokens(per_token)

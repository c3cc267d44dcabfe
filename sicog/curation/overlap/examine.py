"""Find the rows to exclude: unusable images, overlap with benchmarks, near-duplicates, too many rows per image.

Two rows are duplicates when
  - their images are equal (same file content) and the user's turns are equal, whatever the answers are, or
  - their images are near and all turns are nearly equal; this includes rows without images.
Of each cluster one row stays: the one with the highest agreement, of equal ones the one with the lowest id. The result
does not depend on the order of rows.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import Field

from sicog.config import Config
from sicog.curation.numbered_rows import Rows
from sicog.curation.overlap.benchmarks import Benchmark, BenchmarkImages, load_benchmarks
from sicog.curation.overlap.clusters import Clusters, Numbers, groups, is_among, repeated_keys
from sicog.curation.overlap.image_hash import MAX_DISTANCE, near_pairs
from sicog.curation.overlap.image_pass import Pictures, look_at_images, pictures_by_name
from sicog.curation.overlap.marks import RowMarks, mark_rows, turn_hashes
from sicog.curation.overlap.minhash import TextIndex
from sicog.curation.words import combine_hashes
from sicog.data.image_folder import ImageFolder

NEAR, OVERLAP, OF_IMAGE = "near_duplicate", "benchmark_overlap", "image_cap"
UNUSABLE = ("image_missing", "image_refused", "image_broken")
_TEXTS_AT_ONCE = 64


class DeduplicateConfig(Config):
    """Limits for near-duplicates."""

    image_distance: int = Field(default=6, ge=0, le=MAX_DISTANCE)
    """Maximum distance of two images: differing bits among the 64 lowest bits of their hashes. The 192 other bits may
    differ in four times as many."""
    text_similarity: float = Field(default=0.8, gt=0, le=1)
    """Minimum share of common 5-grams of words of two texts; 1 requires the same words."""


class DecontaminateConfig(Config):
    """The benchmarks that no row may overlap with.

    image_distance: as for duplicates; a row with an image near a benchmark image is dropped.
    ngram: a shared n-gram of this many words is an overlap.
    """

    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)
    """The benchmarks."""
    image_distance: int = Field(default=6, ge=0, le=MAX_DISTANCE)
    """Maximum distance of two images, as for duplicates. A row with an image near a benchmark image is dropped."""
    ngram: int = Field(default=13, ge=5)
    """Number of consecutive words that a row must share with a benchmark text to count as overlap."""


@dataclass
class Verdicts:
    """Excluded rows among R rows. `reason_of` is 0 for remaining rows, else one more than an index of `reasons`."""

    reason_of: np.ndarray
    reasons: list[str] = field(default_factory=list)
    details: dict[int, str] = field(default_factory=dict)

    @classmethod
    def none(cls, n: int) -> Verdicts:
        """All `n` rows stay."""
        return cls(np.zeros(n, dtype=np.uint8))

    def drop(self, row: int, reason: str, detail: str) -> None:
        """Exclude a row; the first reason stays."""
        if self.reason_of[row]:
            return
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.reason_of[row] = self.reasons.index(reason) + 1
        self.details[row] = detail

    def remaining_rows(self) -> Numbers:
        """Return int64: the remaining rows."""
        return np.flatnonzero(self.reason_of == 0)

    def excluded_rows(self) -> Iterator[tuple[int, str, str]]:
        """Yield (row, reason, detail) of the excluded rows, in order."""
        for row in np.flatnonzero(self.reason_of).tolist():
            yield row, self.reasons[self.reason_of[row] - 1], self.details[row]

    def check_share(self, unread: int, most: float, step: str) -> None:
        """Raise `ValueError` when too many rows are unusable: bad images, and `unread` unreadable rows."""
        bad = [(reason, detail) for _, reason, detail in self.excluded_rows() if reason in UNUSABLE]
        n = len(self.reason_of) + unread
        if len(bad) + unread > max(1.0, most * n):
            counts = Counter(reason for reason, _ in bad) + Counter({"unreadable": unread})
            listed = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
            first = f"; the first: {bad[0][1]}" if bad else ""
            raise ValueError(
                f"{step}: {len(bad) + unread} of {n} rows cannot be used ({listed}), more than {most:.0%}{first}. "
                f"Correct the data, or allow more with max_dropped_share"
            )


@dataclass(frozen=True)
class Examination:
    """The checks to run on rows. `images`: None when image files are not read."""

    images: ImageFolder | None
    deduplicate: DeduplicateConfig | None
    decontaminate: DecontaminateConfig | None
    per_image: int | None
    cache: Path
    workers: int

    @property
    def is_needed(self) -> bool:
        """Return whether any check has to read rows."""
        return any(part is not None for part in (self.images, self.deduplicate, self.decontaminate, self.per_image))

    def __call__(self, sources: Sequence[Rows], verdicts: Verdicts, name_of: Callable[[int], str]) -> Pictures:
        """Add the excluded rows of all sources to `verdicts`; rows are numbered one source after the other.

        name_of: the name of a row in details.
        """
        bench = self.decontaminate and load_benchmarks(
            self.decontaminate.benchmarks, self.decontaminate.ngram, self.cache, self.workers
        )
        marks = mark_rows(sources, bench[1] if bench else None)
        pictures = self._pictures(sources, marks, bool(bench and len(bench[0].hashes)))
        owners, numbers = marks.owners(), pictures.numbers(marks.images)
        broken = np.isin(numbers, list(pictures.problems))
        for row, image in zip(owners[broken].tolist(), numbers[broken].tolist(), strict=True):
            verdicts.drop(row, *pictures.problems[image])
        if bench and self.decontaminate:
            for row, detail in marks.overlaps.items():
                verdicts.drop(row, OVERLAP, detail)
            near = _near_benchmarks(pictures, bench[0], self.decontaminate.image_distance)[numbers]
            for row, image in zip(owners[near >= 0].tolist(), near[near >= 0].tolist(), strict=True):
                verdicts.drop(row, OVERLAP, f"{bench[0].rows[image]}: its image or one near it")
        if self.deduplicate:
            labels = _duplicates(
                sources, marks, pictures, numbers, verdicts.remaining_rows(), self.deduplicate, self.cache
            )
            _keep_best(labels, verdicts, marks, name_of)
        if self.per_image is not None:
            _cap_rows_per_image(self.per_image, marks, pictures.identity[numbers], verdicts, name_of)
        return pictures

    def _pictures(self, sources: Sequence[Rows], marks: RowMarks, has_images: bool) -> Pictures:
        if self.images is not None:
            return look_at_images(sources, marks, self.images, self.workers)
        if len(marks.images) and (self.deduplicate or has_images):
            raise ValueError(
                "image_folder is missing, but rows have images. Set image_folder so that images can be compared"
            )
        return pictures_by_name(marks)


def _near_benchmarks(pictures: Pictures, benchmarks: BenchmarkImages, distance: int) -> Numbers:
    """Return int64 [M]: the first benchmark image near each image, or -1."""
    found = np.full(len(pictures.names), -1, dtype=np.int64)
    n = len(benchmarks.hashes)
    shown = np.flatnonzero(pictures.has_hash)
    if not n or not len(shown):
        return found
    both, inverse = np.unique(np.concatenate((benchmarks.hashes, pictures.hashes[shown])), axis=0, return_inverse=True)
    first = np.full(len(both), n, dtype=np.int64)  # benchmark images with exactly this hash
    np.minimum.at(first, inverse[:n], np.arange(n))
    near = first.copy()
    ones, others = near_pairs(both, distance)
    np.minimum.at(near, ones, first[others])
    np.minimum.at(near, others, first[ones])
    found[shown] = np.where(near < n, near, -1)[inverse[n:]]
    return found


def _duplicates(
    sources: Sequence[Rows],
    marks: RowMarks,
    pictures: Pictures,
    numbers: Numbers,
    rows: Numbers,
    config: DeduplicateConfig,
    cache: Path,
) -> Numbers:
    """Return int64 [R]: the cluster of each row; a row outside `rows` is its own cluster."""
    clusters = Clusters(len(marks.scores))
    same = marks.keys(pictures.identity[numbers])
    with_images = rows[np.diff(marks.starts)[rows] > 0]
    clusters.join_equal(combine_hashes(same, marks.asked)[with_images], with_images)
    near = marks.keys(_image_clusters(pictures, config.image_distance)[numbers])
    compared = rows[is_among(near[rows], repeated_keys(near[rows]))]
    texts, first, text_of = np.unique(marks.said[compared], return_index=True, return_inverse=True)
    if len(texts) > 1 and config.text_similarity < 1:
        order = np.argsort(first)  # order texts by their first row, so that rows are read in order
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as file:
            index = TextIndex(file)
            said = turn_hashes(sources, compared[first[order]])
            while some := list(islice(said, _TEXTS_AT_ONCE)):
                index.add(some)
            text_of = index.clusters(config.text_similarity)[position[text_of]]
    clusters.join_equal(combine_hashes(near[compared], text_of.astype(np.uint64)), compared)
    return clusters.labels()


def _image_clusters(pictures: Pictures, distance: int) -> Numbers:
    """Return int64 [M], equal for near images; an image without a hash matches only equal images."""
    shown = np.flatnonzero(pictures.has_hash)
    labels = pictures.identity + len(pictures.names)
    unique, inverse = np.unique(pictures.hashes[shown], axis=0, return_inverse=True)
    clusters = Clusters(len(unique))
    clusters.join(*near_pairs(unique, distance))
    labels[shown] = clusters.labels()[inverse]
    return labels


def _keep_best(labels: Numbers, verdicts: Verdicts, marks: RowMarks, name_of: Callable[[int], str]) -> None:
    left = verdicts.remaining_rows()
    for group in groups(labels[left]):
        best, *others = _rank_rows(left[group].tolist(), marks, name_of)
        for row in others:
            verdicts.drop(row, NEAR, f"of {name_of(best)}")


def _cap_rows_per_image(
    most: int, marks: RowMarks, identity_I: Numbers, verdicts: Verdicts, name_of: Callable[[int], str]
) -> None:
    """Keep the best rows of each image; a row with several images counts for each of them."""
    owners = marks.owners()
    stays = verdicts.reason_of[owners] == 0
    _, inverse, counts = np.unique(identity_I[stays], return_inverse=True, return_counts=True)
    crowded = np.unique(owners[stays][counts[inverse] > most])
    taken: Counter[int] = Counter()
    for row in _rank_rows(crowded.tolist(), marks, name_of):
        shown = set(identity_I[marks.starts[row] : marks.starts[row + 1]].tolist())
        if any(taken[image] >= most for image in shown):
            verdicts.drop(row, OF_IMAGE, f"{most} better rows have its image")
        else:
            taken.update(shown)


def _rank_rows(rows: Sequence[int], marks: RowMarks, name_of: Callable[[int], str]) -> list[int]:
    """Sort rows by score, best first, rows without a score last; ties by name."""

    def rank(row: int) -> tuple[float, str]:
        score = float(marks.scores[row])
        return (math.inf if math.isnan(score) else -score), name_of(row)

    return sorted(rows, key=rank)

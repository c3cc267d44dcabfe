"""What curation did with the candidate sets of one task: scores, threshold, and what self-consistency is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sicog.config import Config
from sicog.mini.intervals import Interval, mean_interval, paired_difference_interval
from sicog.provenance import RUN, digest_value
from sicog.records import Example, ScoredCandidate, ScoredSet
from sicog.report.runs import read_lines
from sicog.report.truth import Truth
from sicog.storage import read_json, read_records

BINS = 30
SWEEP_CURVE, SWEEP_ROWS = 160, 12  # points of the plot, lines of the table
METHODS = {"score": "embeddings", "vote": "vote"}


class CuratedConfig(Config):
    """The folders of one task: what `score` wrote, what `select` kept of it, the sweep's file if there was one."""

    scored: Path
    selected: Path
    threshold_file: Path | None = None


@dataclass(frozen=True)
class Rule:
    """How `select` chose: ranked by `score` or `vote`, among these styles, from this value on."""

    by: str
    styles: tuple[str, ...] | None
    threshold: float | None


@dataclass(frozen=True)
class SetMarks:
    """One scored set, without its texts. `value` and `truth`: of the candidate chosen by each method.

    `truth`, `random` (the mean over all candidates that may be chosen) and `truest` are nan without ground truth.
    """

    id: str
    image: str
    kept: bool
    value: Mapping[str, float]
    truth: Mapping[str, float]
    random: float = math.nan
    truest: float = math.nan


@dataclass(frozen=True)
class Curated:
    """One task's sets and how they were selected. `chosen`: style and index of the kept rows' candidates, by row id."""

    config: CuratedConfig
    rule: Rule
    chosen: Mapping[str, tuple[str, int]]
    drops: Mapping[str, str]
    sets: tuple[SetMarks, ...]
    unrankable: int  # sets in which no candidate may be chosen
    has_truth: bool

    @property
    def methods(self) -> list[str]:
        """How candidates can be ranked here, the one that `select` used first."""
        known = [m for m in METHODS if all(m in s.value for s in self.sets)]
        return sorted(known, key=lambda m: m != self.rule.by)


def read_curated(config: CuratedConfig, truth: Truth | None) -> Curated:
    """Read scored and selected rows once; texts are not kept in memory."""
    rule = _read_rule(config)
    chosen = {
        e.id: (str(e.extra.get("style")), int(e.extra.get("index", -1))) for e in read_records(config.selected, Example)
    }
    drops = {d["id"]: d.get("detail") or d["reason"] for d in read_lines(config.selected / "dropped.jsonl")}
    sets, unknown, n_rows = [], set(chosen), 0
    for row in read_records(config.scored, ScoredSet):
        n_rows += 1
        unknown.discard(row.id)
        if found := _marks(row, rule, chosen, truth):
            sets.append(found)
    if unknown:
        raise ValueError(
            f"{config.selected} keeps row {min(unknown)!r}, which {config.scored} does not hold; "
            f"give the scored folder that was the input of `select`"
        )
    return Curated(config, rule, chosen, drops, tuple(sets), n_rows - len(sets), truth is not None)


def _read_rule(config: CuratedConfig) -> Rule:
    """The rule as `select` wrote it down; a threshold from a file is read there."""
    used = read_json(config.selected / RUN).get("config", {})
    threshold = used.get("threshold")
    if threshold is None and config.threshold_file:
        found = read_json(config.threshold_file)
        if not isinstance(found, dict) or not isinstance(found.get("threshold"), (int, float)):
            raise ValueError(f"threshold_file: {config.threshold_file} holds no number under 'threshold'")
        threshold = found["threshold"]
    styles = used.get("styles")
    return Rule(used.get("by", "score"), tuple(styles) if styles else None, threshold)


def eligible(row: ScoredSet, rule: Rule) -> list[ScoredCandidate]:
    """The candidates that may be chosen."""
    return [c for c in row.candidates if c.score is not None and (not rule.styles or c.candidate.style in rule.styles)]


def chosen_of(row: ScoredSet, rule: Rule, chosen: Mapping[str, tuple[str, int]]) -> ScoredCandidate | None:
    """The kept candidate; of a dropped row the one that `select` would have chosen, or None where none may be."""
    if row.id not in chosen:
        return best(eligible(row, rule), rule.by)
    for candidate in row.candidates:
        if (candidate.candidate.style, candidate.candidate.index) == chosen[row.id]:
            return candidate
    raise ValueError(f"row {row.id}: no candidate has the kept one's style and index, {chosen[row.id]}")


def best(candidates: Sequence[ScoredCandidate], by: str) -> ScoredCandidate | None:
    """The candidate ranked highest, as in `select`: by score, or by vote and then score; the first of equal ones."""
    ranked = [((c.vote or 0.0, c.score or 0.0) if by == "vote" else (c.score or 0.0,)) for c in candidates]
    return candidates[ranked.index(max(ranked))] if ranked else None


def _marks(row: ScoredSet, rule: Rule, chosen: Mapping[str, tuple[str, int]], truth: Truth | None) -> SetMarks | None:
    candidates = eligible(row, rule)
    picked = chosen_of(row, rule, chosen)
    if picked is None:
        return None
    methods = [m for m in METHODS if m == "score" or all(c.vote is not None for c in candidates)]
    winners = {m: picked if m == rule.by else best(candidates, m) for m in methods}
    k = sum(c.score is not None for c in row.candidates)
    value = {m: _stated(getattr(c, m), k) for m, c in winners.items() if c and k > 1}
    image = row.query.images[0] if row.query.images else row.id
    if truth is None:
        return SetMarks(row.id, image, row.id in chosen, value, {})
    truths = [truth.of(row.query, c.compared or "") for c in candidates]
    of_winner = {m: truth.of(row.query, c.compared or "") for m, c in winners.items() if c}
    return SetMarks(row.id, image, row.id in chosen, value, of_winner, sum(truths) / len(truths), max(truths))


def _stated(share: float, k: int) -> float:
    """A score or vote among k as it would be among three, for the same agreement: what thresholds are stated in."""
    return round((1 + 2 * round((k * share - 1) / (k - 1), 6)) / 3, 9)


def summary(task: Curated, seed: int) -> dict[str, Any]:
    """The numbers of one task: how many were kept, the histogram, the sweep, and what selection is worth."""
    kept = sum(s.kept for s in task.sets)
    return {
        "by": task.rule.by,
        "method": METHODS[task.rule.by],
        "threshold": task.rule.threshold,
        "rows": len(task.sets) + task.unrankable,
        "kept": kept,
        "without_choice": task.unrankable,
        "histogram": histogram(task),
        "sweep": sweep(task.config.threshold_file) if task.config.threshold_file else None,
        "worth": [worth(task, m, seed) for m in task.methods] if task.has_truth and task.sets else [],
    }


def histogram(task: Curated) -> dict[str, Any] | None:
    """Counts of the chosen candidates' values, kept and dropped; the threshold is an edge, so no bin holds both."""
    values = [s.value[task.rule.by] for s in task.sets]
    if not values:
        return None
    low, high, cut = min(values), max(values), task.rule.threshold
    width = (high - low) / BINS or 1 / BINS
    start = cut - math.ceil((cut - low) / width - 1e-9) * width if cut is not None and low < cut <= high else low
    n_bins = max(1, math.floor((high - start) / width + 1e-9) + 1)
    counts = {True: [0] * n_bins, False: [0] * n_bins}
    for marks, value in zip(task.sets, values, strict=True):
        # The margin keeps a value that is an edge in the bin that it opens.
        counts[marks.kept][max(0, min(n_bins - 1, math.floor((value - start) / width + 1e-9)))] += 1
    edges = [round(start + i * width, 9) for i in range(n_bins + 1)]
    return {"edges": edges, "kept": counts[True], "dropped": counts[False]}


def sweep(path: Path) -> dict[str, Any] | None:
    """The sweep's cuts, thinned for a plot, and further for a table with the cut it chose; None without a table."""
    found = read_json(path)
    cuts = found.get("table") if isinstance(found, dict) else None
    if not cuts:
        return None
    place = min(range(len(cuts)), key=lambda i: abs(cuts[i]["threshold"] - found["threshold"]))
    rows = sorted({*_thinned(len(cuts), SWEEP_ROWS), place})
    head = {key: found.get(key) for key in ("threshold", "by", "encoder", "rows", "keep_share", "within_bounds")}
    return head | {
        "share_kept": cuts[place]["share_kept"],
        "table": [cuts[i] | {"chosen": i == place} for i in rows],
        "curve": [cuts[i] for i in sorted({*_thinned(len(cuts), SWEEP_CURVE), place})],
    }


def _thinned(total: int, wanted: int) -> list[int]:
    return sorted({round(i * (total - 1) / max(1, wanted - 1)) for i in range(wanted)})


def worth(task: Curated, method: str, seed: int) -> dict[str, Any]:
    """How true the selected candidate is beside a random and the truest one, and kept rows beside dropped ones.

    For the method that `select` did not use, the rows with the highest values count as kept, as many as it kept, and
    the seed decides among equal ones.
    """
    sets, used = task.sets, method == task.rule.by
    kept = _kept_ids(task, method, seed)
    selected = [s.truth[method] for s in sets]
    images = [s.image for s in sets]
    figures = {
        "random": mean_interval([s.random for s in sets], images),
        "selected": mean_interval(selected, images),
        "truest": mean_interval([s.truest for s in sets], images),
        "gain": paired_difference_interval([s.random for s in sets], selected, images),
        "kept": _mean_where(task, method, kept, True),
        "dropped": _mean_where(task, method, kept, False),
    }
    head = {"method": METHODS[method], "used": used, "sets": len(sets), "rows_kept": len(kept)}
    return head | {name: interval._asdict() for name, interval in figures.items()}


def _kept_ids(task: Curated, method: str, seed: int) -> set[str]:
    kept = {s.id for s in task.sets if s.kept}
    if method == task.rule.by:
        return kept
    ranked = sorted(task.sets, key=lambda s: (-s.value[method], digest_value([seed, s.id])))
    return {s.id for s in ranked[: len(kept)]}


def _mean_where(task: Curated, method: str, kept: set[str], wanted: bool) -> Interval:
    sets = [s for s in task.sets if (s.id in kept) == wanted]
    return mean_interval([s.truth[method] for s in sets], [s.image for s in sets])

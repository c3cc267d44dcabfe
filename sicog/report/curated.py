"""Statistics of one task's curation: scores, threshold, and the gain of self-consistency."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sicog.config import Config
from sicog.curation.score.columns import columns_in_memory
from sicog.curation.select.threshold import (
    PAPER_K,
    By,
    Threshold,
    score_or_vote,
    stored_agreement,
    threshold_at,
    threshold_in,
)
from sicog.curation.select.verdicts import (
    LOW,
    NO_CANDIDATE,
    TOO_FEW,
    Rule,
    agreement_at,
    best_candidates,
    decide,
    eligible,
)
from sicog.records import CandidateOrigin, Dropped, Example, ScoredSet
from sicog.report import cuts
from sicog.report.known_truth import Truth
from sicog.report.run_facts import read_lines
from sicog.stages.provenance import RUN, digest_value
from sicog.stages.reader import FolderSource
from sicog.stages.storage import read_json, read_records
from sicog.statistics.intervals import Interval, mean_interval, paired_difference_interval

SWEEP_CURVE, SWEEP_ROWS = 160, 12  # points of the plot, lines of the table
METHODS: dict[By, str] = {"score": "embeddings", "vote": "vote"}
KEPT, DROPPED, OPEN = "kept", "dropped", "open"  # open: not selected yet
FEWEST = 3  # minimum number of comparable candidates, the default of `select`
_ROWS = 256  # judged at once


class CuratedConfig(Config):
    """The folders of one task."""

    scored: Path
    """Output folder of `score`."""
    selected: Path | None = None
    """Output folder of `select`."""
    threshold_file: Path | None = None
    """Output file of the sweep, if there was one."""


@dataclass(frozen=True, slots=True)
class SetMarks:
    """One scored set without its texts. `value` and `truth`: of the candidate chosen by each method.

    state: kept, dropped or open. reason: of the drop; for an open row, why `select` would drop it at any threshold.
    picked: place of the chosen candidate (for a dropped row, the one that would be chosen), None without one.
    random: mean truth over all eligible candidates; truest: the highest truth; chance: share of candidates with
    the highest truth. All are nan without ground truth.
    """

    id: str
    image: str
    state: str
    reason: str | None
    style: str | None
    picked: int | None
    value: Mapping[str, float]
    truth: Mapping[str, float]
    random: float = math.nan
    truest: float = math.nan
    chance: float = math.nan

    @property
    def is_kept(self) -> bool:
        """Return whether `select` kept the row."""
        return self.state == KEPT


@dataclass(frozen=True)
class Curated:
    """One task's sets that have a candidate to choose, and how they were selected.

    All thresholds and values of the page are stated for `PAPER_K` candidates.
    """

    config: CuratedConfig
    rule: Rule
    sets: tuple[SetMarks, ...]
    unrankable: Mapping[str, int]  # sets without an eligible candidate, by drop reason
    has_truth: bool

    @property
    def threshold(self) -> float | None:
        """Return the threshold that kept candidates reach."""
        return self.rule.threshold.stated_for(PAPER_K) if self.rule.threshold else None

    @property
    def methods(self) -> list[By]:
        """Return the possible ranking methods, the method of `select` first."""
        known = [m for m in METHODS if all(m in s.value for s in self.sets)]
        return sorted(known, key=lambda m: m != self.rule.by)


@dataclass(frozen=True)
class Selected:
    """Result of `select`: the chosen candidate of kept rows, reason and detail of dropped rows.

    A candidate is identified by style, index, seed and checkpoint; pooled rounds need all four.
    """

    chosen: Mapping[str, tuple[Any, ...]]
    drops: Mapping[str, tuple[str, str]]

    @classmethod
    def read(cls, folder: Path) -> Selected:
        """Read the kept and the dropped rows without keeping their texts in memory."""
        kept = read_records(folder, Example)
        origins = ((e.id, e.origin) for e in kept)
        # The bare answer of a chain is a second row of the same candidates.
        chosen = {row_id: (o.style, o.index, o.seed, o.checkpoint) for row_id, o in origins if o.of is None}
        lines = read_lines(folder / "dropped.jsonl")
        return cls(chosen, {d["id"]: (d["reason"], d.get("detail") or "") for d in lines})


def read_curated(
    config: CuratedConfig, truth: Truth | None, take: Callable[[ScoredSet, SetMarks, str, str], None] | None = None
) -> Curated:
    """Read scored and selected rows once; texts are not kept in memory.

    take: called with each row, its statistics, the detail of its drop, and the value that the threshold applies to.
    """
    rule, selected = _read_rule(config), Selected.read(config.selected) if config.selected else None
    sets, unrankable, unknown = [], Counter[str](), set(selected.chosen if selected else ())
    source = FolderSource(config.scored, ScoredSet, step="report")
    rows = source.read(0, len(source))
    while block := list(islice(rows, _ROWS)):
        unrankable.update(row.reason for row in block if isinstance(row, Dropped))
        scored = [row for row in block if isinstance(row, ScoredSet)]
        for row, marks in zip(scored, _marks(scored, rule, selected, truth), strict=True):
            unknown.discard(row.id)
            if marks.picked is None:
                unrankable[marks.reason or NO_CANDIDATE] += 1
            else:
                sets.append(marks)
            if take:
                take(row, marks, selected.drops.get(row.id, ("", ""))[1] if selected else "", rule.by)
    if unknown:
        raise ValueError(
            f"{config.selected} keeps row {min(unknown)!r}, which is not in {config.scored}. "
            f"Give the scored folder that was the input of `select`"
        )
    return Curated(config, rule, tuple(sets), unrankable, truth is not None)


def _read_rule(config: CuratedConfig) -> Rule:
    """Return the recorded rule of `select`, with a threshold from its file; without a selection, the defaults."""
    if not config.selected:
        return Rule(_ranking_of(config.scored), None, None, FEWEST)
    used = read_json(config.selected / RUN).get("config", {})
    cut, styles, by = None, used.get("styles"), used.get("by", "score")
    if used.get("threshold") is not None:
        cut = Threshold(used["threshold"], used.get("threshold_k", PAPER_K))
    elif config.threshold_file:
        cut = threshold_in(config.threshold_file)
    fewest = used.get("min_candidates", FEWEST)
    return Rule(by if by in METHODS else "score", cut, tuple(styles) if styles else None, fewest)


def _ranking_of(scored: Path) -> By:
    """Return `score`, or `vote` when the folder has only votes."""
    source = FolderSource(scored, ScoredSet, step="report")
    for row in source.read(0, len(source)):
        for candidate in row.candidates if isinstance(row, ScoredSet) else ():
            if candidate.compared is not None:
                return "vote" if candidate.score is None and candidate.vote is not None else "score"
    return "score"


def comparable_value_of(origin: CandidateOrigin) -> float:
    """The value of a kept example, by what `select` wrote in its `extra`: stated for `PAPER_K` candidates, nan without
    any. The score of a candidate that was alone stands as it is."""
    if (agreement := stored_agreement(origin)) is not None:
        return float(threshold_at(agreement, PAPER_K))
    share = score_or_vote(origin)
    return math.nan if share is None else share


def _kept_place(row: ScoredSet, kept: tuple[Any, ...]) -> int:
    """Return the place of the kept candidate of a row."""
    for i, candidate in enumerate(c.candidate for c in row.candidates):
        own = (candidate.style, candidate.index, candidate.seed, candidate.checkpoint)
        if all(known in (None, of) for known, of in zip(kept, own, strict=True)):
            return i
    raise ValueError(
        f"row {row.id}: no candidate has the kept one's style, index, seed and checkpoint, {kept}; "
        f"give the scored folder that was the input of `select`"
    )


def _marks(rows: Sequence[ScoredSet], rule: Rule, selected: Selected | None, truth: Truth | None) -> list[SetMarks]:
    """Return the statistics of each row. The candidate of a dropped row is the one that `select` would choose."""
    columns = columns_in_memory(rows)
    found = decide(columns, replace(rule, threshold=None), {})
    allowed_N = eligible(columns, rule.styles)
    places, values = {}, {}
    for m in METHODS:
        unknown_R = columns.per_row(allowed_N & np.isnan(getattr(columns, m))) > 0
        chosen_R = (
            found.chosen if m == rule.by else np.where(unknown_R, -1, best_candidates(columns, replace(rule, by=m)))
        )
        if m == rule.by and selected:
            kept = {i: selected.chosen[row.id] for i, row in enumerate(rows) if row.id in selected.chosen}
            chosen_R[list(kept)] = [_kept_place(rows[i], of) for i, of in kept.items()]
        places[m], values[m] = chosen_R.tolist(), threshold_at(agreement_at(columns, m, chosen_R), PAPER_K).tolist()
    allowed = columns.places(allowed_N)
    return [
        _of_row(
            row,
            _state(row.id, selected, found.reasons[i]),
            None if places[rule.by][i] < 0 else places[rule.by][i],
            {str(m): (places[m][i], values[m][i]) for m in METHODS if places[m][i] >= 0},
            allowed[i],
            truth,
        )
        for i, row in enumerate(rows)
    ]


def _state(row_id: str, selected: Selected | None, unusable: str) -> tuple[str, str | None]:
    """Kept, dropped or open, and the reason."""
    if selected is None:
        return OPEN, unusable or None
    if row_id in selected.chosen:
        return KEPT, None
    return DROPPED, selected.drops.get(row_id, ("not_selected", ""))[0]


def _of_row(
    row: ScoredSet,
    state: tuple[str, str | None],
    picked: int | None,
    winners: Mapping[str, tuple[int, float]],  # place and value
    places: Sequence[int],
    truth: Truth | None,
) -> SetMarks:
    image, of = row.query.images[0] if row.query.images else row.id, row.candidates
    if picked is None:
        return SetMarks(row.id, image, *state, None, None, {}, {})
    style, values = of[picked].candidate.style, {m: value for m, (_, value) in winners.items()}
    if truth is None or not places:
        return SetMarks(row.id, image, *state, style, picked, values, {})
    truths = [truth.of(row.query, of[i].compared or "") for i in places]
    return SetMarks(
        *(row.id, image, *state, style, picked, values),
        truth={m: truth.of(row.query, of[i].compared or "") for m, (i, _) in winners.items()},
        random=sum(truths) / len(truths),
        truest=max(truths),
        chance=truths.count(max(truths)) / len(truths),
    )


def summary(task: Curated, seed: int) -> dict[str, Any]:
    """Return the numbers of one task: kept rows, rows kept by each threshold, and the gain of selection."""
    return {
        "by": task.rule.by,
        "method": METHODS[task.rule.by],
        "threshold": task.threshold,
        "rows": len(task.sets) + sum(task.unrankable.values()),
        "kept": sum(s.is_kept for s in task.sets) if task.config.selected else None,
        "without_choice": sum(task.unrankable.values()),
        "cuts": _cuts(task),
        "sweep": sweep(task.config.threshold_file) if task.config.threshold_file else None,
        "worth": [truth_gain(task, m, seed) for m in task.methods] if task.has_truth and task.sets else [],
    }


def _cuts(task: Curated) -> dict[str, Any] | None:
    """Return the rows that each threshold keeps, and rows dropped at any threshold, by reason."""
    movable, fixed = [], Counter(task.unrankable)
    for s in task.sets:
        value = s.value[task.rule.by]
        if s.reason is not None and s.reason != LOW:
            fixed[s.reason] += 1
        elif math.isnan(value):
            fixed[TOO_FEW] += 1
        else:
            movable.append(cuts.Row(str(s.style), value, s.truth.get(task.rule.by)))
    found = cuts.totals(movable, task.threshold)
    return found | {"fixed": dict(sorted(fixed.items()))} if found else None


def sweep(path: Path) -> dict[str, Any] | None:
    """Return the sweep's cuts, thinned for a plot and for a table that contains the chosen cut; None without cuts."""
    found = read_json(path)
    cuts = found.get("table") if isinstance(found, dict) else None
    if not cuts:
        return None
    place = min(range(len(cuts)), key=lambda i: abs(cuts[i]["threshold"] - found["threshold"]))
    rows = sorted({*_thinned_places(len(cuts), SWEEP_ROWS), place})
    head = {key: found.get(key) for key in ("threshold", "by", "encoder", "rows", "keep_share", "within_bounds")}
    return head | {
        "share_kept": cuts[place]["share_kept"],
        "table": [cuts[i] | {"chosen": i == place} for i in rows],
        "curve": [cuts[i] for i in sorted({*_thinned_places(len(cuts), SWEEP_CURVE), place})],
    }


def _thinned_places(total: int, wanted: int) -> list[int]:
    return sorted({round(i * (total - 1) / max(1, wanted - 1)) for i in range(wanted)})


def truth_gain(task: Curated, method: By, seed: int) -> dict[str, Any]:
    """Return the truth of the selected, a random and the truest candidate, and of kept and dropped rows.

    For a method that `select` did not use, the rows with the highest values count as kept, in the same number; the seed
    breaks ties.
    """
    selected_by = task.rule.by if task.config.selected else None
    sets, used = task.sets, method == selected_by
    kept = _kept_ids(task, method, seed)
    selected = [s.truth[method] for s in sets]
    images = [s.image for s in sets]
    figures = {
        "random": mean_interval([s.random for s in sets], images),
        "selected": mean_interval(selected, images),
        "truest": mean_interval([s.truest for s in sets], images),
        "gain": paired_difference_interval([s.random for s in sets], selected, images),
        "is_truest": mean_interval([float(s.truth[method] == s.truest) for s in sets], images),
        "is_truest_by_chance": mean_interval([s.chance for s in sets], images),
        "kept": _mean_where(task, method, kept, True),
        "dropped": _mean_where(task, method, kept, False),
    }
    differ = [s for s in sets if s.chance < 1]  # only these rows have a choice
    images = [s.image for s in differ]
    figures["is_truest_where_they_differ"] = mean_interval([float(s.truth[method] == s.truest) for s in differ], images)
    figures["is_truest_by_chance_where_they_differ"] = mean_interval([s.chance for s in differ], images)
    head = {"differ": len(differ), "method": METHODS[method], "used": used, "sets": len(sets)}
    head["rows_kept"] = len(kept) if selected_by else None
    return head | {name: interval._asdict() for name, interval in figures.items()}


def _kept_ids(task: Curated, method: str, seed: int) -> set[str]:
    kept = {s.id for s in task.sets if s.is_kept}
    if method == task.rule.by:
        return kept
    ranked = sorted(task.sets, key=lambda s: (-_known_or_lowest(s.value[method]), digest_value([seed, s.id])))
    return {s.id for s in ranked[: len(kept)]}


def _known_or_lowest(value: float) -> float:
    """Rank unknown values below all others."""
    return -2.0 if math.isnan(value) else value


def _mean_where(task: Curated, method: str, kept: set[str], wanted: bool) -> Interval:
    sets = [s for s in task.sets if (s.id in kept) == wanted and s.state != OPEN]
    return mean_interval([s.truth[method] for s in sets], [s.image for s in sets])

"""What curation did with the candidate sets of one task: scores, threshold, and what self-consistency is worth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sicog.config import Config
from sicog.records import Dropped, Example, ScoredCandidate, ScoredSet
from sicog.report import cuts
from sicog.report.known_truth import Truth
from sicog.report.run_facts import read_lines
from sicog.stages.provenance import RUN, digest_value
from sicog.stages.reader import FolderSource
from sicog.stages.storage import read_json, read_records
from sicog.statistics.intervals import Interval, mean_interval, paired_difference_interval

SWEEP_CURVE, SWEEP_ROWS = 160, 12  # points of the plot, lines of the table
METHODS = {"score": "embeddings", "vote": "vote"}
KEPT, DROPPED, OPEN = "kept", "dropped", "open"  # open: nothing has been selected yet
LOW = "low_consistency"  # the one reason that another threshold undoes
THRESHOLD_K = 3  # the number of candidates that thresholds are stated for
FEWEST = 3  # candidates that could be compared: `select` drops rows with fewer, unless its config says otherwise


class CuratedConfig(Config):
    """The folders of one task."""

    scored: Path
    """What `score` wrote."""
    selected: Path | None = None
    """What `select` kept of it."""
    threshold_file: Path | None = None
    """The sweep's file, if there was a sweep."""


@dataclass(frozen=True)
class Rule:
    """How `select` chose: ranked by `score` or `vote`, among these styles, from this value on.

    threshold: as stated for `THRESHOLD_K` candidates, as all values of the page are.
    min_candidates: rows in which fewer could be compared are dropped whatever the threshold.
    """

    by: str = "score"
    styles: tuple[str, ...] | None = None
    threshold: float | None = None
    min_candidates: int = FEWEST


@dataclass(frozen=True, slots=True)
class SetMarks:
    """One scored set, without its texts. `value` and `truth`: of the candidate chosen by each method.

    state: kept, dropped or open; `reason` says why it was dropped, of an open one why `select` would drop it whatever
    the threshold.
    picked: the place of the chosen candidate (of a dropped row, of the one that would have been), None without one.
    random: the mean truth over all candidates that may be chosen; truest: the highest; chance: the share of them that
    are as true as that. All are nan without ground truth.
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
    def kept(self) -> bool:
        """Whether `select` kept the row."""
        return self.state == KEPT


@dataclass(frozen=True)
class Curated:
    """One task's sets that have a candidate to choose, and how they were selected."""

    config: CuratedConfig
    rule: Rule
    sets: tuple[SetMarks, ...]
    unrankable: Mapping[str, int]  # sets in which no candidate may be chosen, by the reason of their drop
    has_truth: bool

    @property
    def methods(self) -> list[str]:
        """How candidates can be ranked here, the one that `select` used first."""
        known = [m for m in METHODS if all(m in s.value for s in self.sets)]
        return sorted(known, key=lambda m: m != self.rule.by)


@dataclass(frozen=True)
class Selected:
    """What `select` made of the rows: which candidate of the kept ones, reason and detail of the others.

    A candidate is known by its style, index, seed and checkpoint: in pooled rounds no fewer of them tell one.
    """

    chosen: Mapping[str, tuple[Any, ...]]
    drops: Mapping[str, tuple[str, str]]

    @classmethod
    def read(cls, folder: Path) -> Selected:
        """Read the kept and the dropped rows; their texts are not kept in memory."""
        kept = read_records(folder, Example)
        names = ("style", "index", "seed", "checkpoint")
        chosen = {
            e.id: tuple(map(e.extra.get, names)) for e in kept if "of" not in e.extra
        }  # a second row has the first's
        lines = read_lines(folder / "dropped.jsonl")
        return cls(chosen, {d["id"]: (d["reason"], d.get("detail") or "") for d in lines})


def read_curated(
    config: CuratedConfig, truth: Truth | None, take: Callable[[ScoredSet, SetMarks, str, str], None] | None = None
) -> Curated:
    """Read scored and selected rows once; texts are not kept in memory.

    take: called with each row, its marks, the detail of its drop, and what the threshold cuts.
    """
    rule, selected = _read_rule(config), Selected.read(config.selected) if config.selected else None
    sets, unrankable, unknown = [], Counter[str](), set(selected.chosen if selected else ())
    source = FolderSource(config.scored, ScoredSet, step="report")
    for row in source.read(0, len(source)):
        if isinstance(row, Dropped):
            unrankable[row.reason] += 1
            continue
        unknown.discard(row.id)
        marks = _marks(row, rule, selected, truth)
        if marks.picked is None:
            unrankable[marks.reason or "no_candidate"] += 1
        else:
            sets.append(marks)
        if take:
            take(row, marks, selected.drops.get(row.id, ("", ""))[1] if selected else "", rule.by)
    if unknown:
        raise ValueError(
            f"{config.selected} keeps row {min(unknown)!r}, which {config.scored} does not hold; "
            f"give the scored folder that was the input of `select`"
        )
    return Curated(config, rule, tuple(sets), unrankable, truth is not None)


def _read_rule(config: CuratedConfig) -> Rule:
    """The rule as `select` wrote it down; a threshold from a file is read there. Before it, its defaults."""
    if not config.selected:
        return Rule(_ranked_by(config.scored))
    used = read_json(config.selected / RUN).get("config", {})
    threshold, styles, k = used.get("threshold"), used.get("styles"), used.get("threshold_k", THRESHOLD_K)
    if threshold is None and config.threshold_file:
        found = read_json(config.threshold_file)
        if not isinstance(found, dict) or not isinstance(found.get("threshold"), (int, float)):
            raise ValueError(f"threshold_file: {config.threshold_file} holds no number under 'threshold'")
        threshold, k = found["threshold"], found.get("threshold_k", THRESHOLD_K)
    if threshold is not None and k != THRESHOLD_K:
        threshold = stated(threshold, k)
    by = used.get("by", "score")
    fewest = used.get("min_candidates", FEWEST)
    return Rule(by if by in METHODS else "score", tuple(styles) if styles else None, threshold, fewest)


def _ranked_by(scored: Path) -> str:
    """`score`, unless the answers of this folder were only counted."""
    source = FolderSource(scored, ScoredSet, step="report")
    for row in source.read(0, len(source)):
        for candidate in row.candidates if isinstance(row, ScoredSet) else ():
            if candidate.compared is not None:
                return "vote" if candidate.score is None and candidate.vote is not None else "score"
    return "score"


def level(candidate: ScoredCandidate, by: str, k: int) -> float | None:
    """The score or vote that a candidate would have among `THRESHOLD_K`, for its agreement with the others.

    k: the number of candidates that were compared. None where nothing can be said: not compared, or alone.
    """
    if by == "score" and candidate.agreement is not None:
        return _stated(candidate.agreement)
    share = candidate.vote if by == "vote" else candidate.score
    return None if share is None or k < 2 else stated(share, k)


def level_of(marks: Mapping[str, Any]) -> float:
    """The same of a kept example, by what `select` wrote in its `extra`; a score without K stands as it is, nan without
    any."""
    known = {n: v for n, v in marks.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    if "agreement" in known:
        return _stated(known["agreement"])
    share, k = known.get("score", known.get("vote", math.nan)), known.get("k", THRESHOLD_K)
    return float(share) if math.isnan(share) or k < 2 else stated(share, k)


def stated(share: float, k: float) -> float:
    """A score or vote among k candidates, itself included, as it would be among `THRESHOLD_K`; k above 1."""
    return _stated((k * share - 1) / (k - 1))


def _stated(agreement: float) -> float:
    """Thresholds are compared as agreement with the others, which is rounded to 1e-6."""
    return round((1 + (THRESHOLD_K - 1) * round(agreement, 6)) / THRESHOLD_K, 9)


def compared(row: ScoredSet) -> int:
    """K: how many candidates were compared."""
    return sum(c.compared is not None for c in row.candidates)


def eligible(row: ScoredSet, rule: Rule) -> list[int]:
    """The places of the candidates that may be chosen."""
    return [
        i
        for i, c in enumerate(row.candidates)
        if c.compared is not None and (not rule.styles or c.candidate.style in rule.styles)
    ]


def unusable(row: ScoredSet, rule: Rule) -> str | None:
    """Why `select` drops a row whatever the threshold, or None; what it calls these reasons."""
    k = compared(row)
    if row.candidates and not k:
        return "all_cut" if all(c.excluded == "cut" for c in row.candidates) else "parse_failure"
    if k < rule.min_candidates:
        return "too_few_candidates"
    return None if eligible(row, rule) else "no_candidate"


def _picked(row: ScoredSet, rule: Rule, selected: Selected | None) -> int | None:
    """The kept candidate; of a dropped row the one that `select` would have chosen, or None where none may be."""
    if not selected or row.id not in selected.chosen:
        return best(row, eligible(row, rule), rule.by)
    for i, candidate in enumerate(c.candidate for c in row.candidates):
        own = (candidate.style, candidate.index, candidate.seed, candidate.checkpoint)
        if all(known in (None, of) for known, of in zip(selected.chosen[row.id], own, strict=True)):
            return i
    raise ValueError(
        f"row {row.id}: no candidate has the kept one's style, index, seed and checkpoint, {selected.chosen[row.id]}; "
        f"give the scored folder that was the input of `select`"
    )


def best(row: ScoredSet, places: Sequence[int], by: str) -> int | None:
    """The candidate ranked highest, as in `select`: by score, or by vote and then score; the first of equal ones."""
    of = row.candidates
    ranked = [((of[i].vote or 0.0, of[i].score or 0.0) if by == "vote" else (of[i].score or 0.0,)) for i in places]
    return places[ranked.index(max(ranked))] if ranked else None


def _marks(row: ScoredSet, rule: Rule, selected: Selected | None, truth: Truth | None) -> SetMarks:
    places, of, k = eligible(row, rule), row.candidates, compared(row)
    picked = _picked(row, rule, selected)
    state = OPEN if selected is None else KEPT if row.id in selected.chosen else DROPPED
    reason = None if selected else unusable(row, rule)
    if selected and state == DROPPED:
        reason = selected.drops.get(row.id, ("not_selected", ""))[0]
    image = row.query.images[0] if row.query.images else row.id
    if picked is None:
        return SetMarks(row.id, image, state, reason, None, None, {}, {})
    style = of[picked].candidate.style
    methods = [m for m in METHODS if m == rule.by or all(getattr(of[i], m) is not None for i in places)]
    winners = {m: picked if m == rule.by else best(row, places, m) for m in methods}
    values = {m: level(of[i], m, k) for m, i in winners.items() if i is not None}
    value = {m: math.nan if v is None else float(v) for m, v in values.items()}
    if truth is None or not places:
        return SetMarks(row.id, image, state, reason, style, picked, value, {})
    truths = [truth.of(row.query, of[i].compared or "") for i in places]
    of_winner = {m: truth.of(row.query, of[i].compared or "") for m, i in winners.items() if i is not None}
    chance = truths.count(max(truths)) / len(truths)
    return SetMarks(
        *(row.id, image, state, reason, style, picked, value, of_winner),
        random=sum(truths) / len(truths),
        truest=max(truths),
        chance=chance,
    )


def summary(task: Curated, seed: int) -> dict[str, Any]:
    """The numbers of one task: how many were kept, what each threshold keeps, and what selection is worth."""
    return {
        "by": task.rule.by,
        "method": METHODS[task.rule.by],
        "threshold": task.rule.threshold,
        "rows": len(task.sets) + sum(task.unrankable.values()),
        "kept": sum(s.kept for s in task.sets) if task.config.selected else None,
        "without_choice": sum(task.unrankable.values()),
        "cuts": _cuts(task),
        "sweep": sweep(task.config.threshold_file) if task.config.threshold_file else None,
        "worth": [worth(task, m, seed) for m in task.methods] if task.has_truth and task.sets else [],
    }


def _cuts(task: Curated) -> dict[str, Any] | None:
    """What each threshold would keep, and the rows that no threshold brings back, by reason."""
    movable, fixed = [], Counter(task.unrankable)
    for s in task.sets:
        value = s.value[task.rule.by]
        if s.reason is not None and s.reason != LOW:
            fixed[s.reason] += 1
        elif math.isnan(value):
            fixed["too_few_candidates"] += 1
        else:
            movable.append(cuts.Row(str(s.style), value, s.truth.get(task.rule.by)))
    found = cuts.totals(movable, task.rule.threshold)
    return found | {"fixed": dict(sorted(fixed.items()))} if found else None


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
    differ = [s for s in sets if s.chance < 1]  # only there is anything to choose
    images = [s.image for s in differ]
    figures["is_truest_where_they_differ"] = mean_interval([float(s.truth[method] == s.truest) for s in differ], images)
    figures["is_truest_by_chance_where_they_differ"] = mean_interval([s.chance for s in differ], images)
    head = {"differ": len(differ), "method": METHODS[method], "used": used, "sets": len(sets)}
    head["rows_kept"] = len(kept) if selected_by else None
    return head | {name: interval._asdict() for name, interval in figures.items()}


def _kept_ids(task: Curated, method: str, seed: int) -> set[str]:
    kept = {s.id for s in task.sets if s.kept}
    if method == task.rule.by:
        return kept
    ranked = sorted(task.sets, key=lambda s: (-_known(s.value[method]), digest_value([seed, s.id])))
    return {s.id for s in ranked[: len(kept)]}


def _known(value: float) -> float:
    """What cannot be known ranks below all else."""
    return -2.0 if math.isnan(value) else value


def _mean_where(task: Curated, method: str, kept: set[str], wanted: bool) -> Interval:
    sets = [s for s in task.sets if (s.id in kept) == wanted and s.state != OPEN]
    return mean_interval([s.truth[method] for s in sets], [s.image for s in sets])

"""Compare base, next model and control: the measures of each evaluation, and paired differences of items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sicog.report.run_facts import read_lines
from sicog.stages.storage import read_json
from sicog.statistics.intervals import Interval, paired_difference_interval

NEXT = "next"
OTHERS = ("base", "control")
ITEM_FILES = {"questions": "answers.jsonl", "chains": "chains.jsonl", "captions": "captions.jsonl"}
HEADLINES = ("question accuracy", "caption F1")  # the measures that the verdict names
Item = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """metrics.json of one checkpoint, and its items by kind and id."""

    name: str
    metrics: Mapping[str, Any]
    items: Mapping[str, Mapping[str, Item]]


@dataclass(frozen=True)
class Measure:
    """One line of the table: its key in metrics.json, and the contribution of each item."""

    label: str
    kind: str  # questions or captions
    where: tuple[str, ...]
    key: str  # the item's value
    counts: Callable[[Item], bool] = lambda item: True
    part: bool = False  # a subset of the items of the line above it
    optional: bool = False  # not shown if an evaluation does not have it


def read_all(folders: Mapping[str, Path]) -> list[Evaluation]:
    """Read the evaluations in the given order. Raises `ValueError` for a missing or broken file."""
    return [_read(name, folder) for name, folder in folders.items()]


def _read(name: str, folder: Path) -> Evaluation:
    metrics = read_json(folder / "metrics.json")
    kinds = [kind for kind in ITEM_FILES if isinstance(metrics, dict) and kind in metrics]
    if not kinds:
        raise ValueError(
            f"evaluations.{name}: {folder / 'metrics.json'} has neither questions nor captions. "
            "Give an evaluation folder"
        )
    items: dict[str, dict[str, Item]] = {}
    for kind in kinds:
        path = folder / ITEM_FILES[kind]
        items[kind] = {str(item.get("id", "")): item for item in read_lines(path)}
        keys = {key for measure in _MEASURES[kind] if not measure.optional for key in (measure.key, "held_out")}
        if broken := next((i for i, item in items[kind].items() if not i or not keys <= item.keys()), None):
            raise ValueError(
                f"evaluations.{name}: {path}: a key of item {broken!r} is missing. Needed: {', '.join(sorted(keys))}"
            )
    return Evaluation(name, metrics, items)


def _is_seen(item: Item) -> bool:
    return not item["held_out"]


def _is_held_out(item: Item) -> bool:
    return bool(item["held_out"])


_MEASURES: Mapping[str, tuple[Measure, ...]] = {
    "questions": (
        Measure("question accuracy", "questions", ("questions", "accuracy"), "right"),
        Measure("seen combinations", "questions", ("questions", "seen"), "right", _is_seen, part=True),
        Measure("held-out combinations", "questions", ("questions", "held_out"), "right", _is_held_out, part=True),
    ),
    "chains": (Measure("accuracy by chains", "chains", ("chains", "accuracy"), "right"),),
    "captions": (
        Measure("caption precision", "captions", ("captions", "precision"), "precision"),
        Measure("caption recall", "captions", ("captions", "recall"), "recall"),
        Measure("caption F1", "captions", ("captions", "f1"), "f1"),
        Measure("F1 of things with places", "captions", ("captions", "placed_f1"), "placed_f1", optional=True),
        Measure("seen combinations", "captions", ("captions", "seen", "f1"), "f1", _is_seen, part=True),
        Measure("held-out combinations", "captions", ("captions", "held_out", "f1"), "f1", _is_held_out, part=True),
    ),
}


def measures(evaluations: list[Evaluation]) -> list[Measure]:
    """Return the lines of the table: measures that all evaluations have, question types after the total."""
    found: list[Measure] = []
    for kind in ITEM_FILES:
        if all(kind in e.items for e in evaluations):
            head, *tail = (m for m in _MEASURES[kind] if not m.optional or all(_has_measure(e, m) for e in evaluations))
            found += [head, *(_type_measure(t) for t in _types(evaluations) if kind == "questions"), *tail]
    return found


def _has_measure(evaluation: Evaluation, measure: Measure) -> bool:
    return all(measure.key in item for item in evaluation.items[measure.kind].values())


def _types(evaluations: list[Evaluation]) -> list[str]:
    return list(dict.fromkeys(t for e in evaluations for t in e.metrics["questions"].get("by_type", {})))


def _type_measure(type_: str) -> Measure:
    where = ("questions", "by_type", type_)
    return Measure(f"{type_} questions", "questions", where, "right", lambda item: item.get("type") == type_, part=True)


def compare(evaluations: list[Evaluation]) -> dict[str, Any]:
    """Return values with intervals, differences of the next model to the others, and the verdict."""
    by_name = {e.name: e for e in evaluations}
    others = [name for name in OTHERS if name in by_name and NEXT in by_name]
    rows = []
    for measure in measures(evaluations):
        values = {e.name: _value(e, measure) for e in evaluations}
        differences = {other: difference(by_name[other], by_name[NEXT], measure) for other in others}
        n = sum(measure.counts(item) for item in evaluations[0].items[measure.kind].values())
        row = {"label": measure.label, "kind": measure.kind, "part": measure.part, "n": n, "values": values}
        rows.append(row | {"differences": {other: d._asdict() for other, d in differences.items()}})
    return {
        "names": [e.name for e in evaluations],
        "compared_with": others,
        "checkpoints": {e.name: e.metrics.get("checkpoint") for e in evaluations},
        "rows": rows,
        "verdict": [verdict(rows, other) for other in others],
    }


def _value(evaluation: Evaluation, measure: Measure) -> dict[str, Any]:
    """Return value and interval from metrics.json; a bare number has no limits."""
    node: Any = evaluation.metrics
    for key in measure.where:
        node = node.get(key) if isinstance(node, Mapping) else None
    if isinstance(node, (int, float)):
        node = {"value": node}
    if not isinstance(node, Mapping) or "value" not in node:
        raise ValueError(
            f"evaluations.{evaluation.name}: {'.'.join(measure.where)} is missing in metrics.json. Evaluate again"
        )
    return {key: node.get(key) for key in ("value", "low", "high")}


def difference(first: Evaluation, second: Evaluation, measure: Measure) -> Interval:
    """Return the mean of second - first over the items of the measure, joined by id, with its 95 % interval.

    Raises `ValueError` when the two evaluations have different items.
    """
    ours, theirs = second.items[measure.kind], first.items[measure.kind]
    if odd := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(
            f"evaluations: {first.name} and {second.name} have different {measure.kind} "
            f"(only one has {odd[0]!r}). Evaluate both on the same split"
        )
    ids = [i for i, item in ours.items() if measure.counts(item)]
    return paired_difference_interval(
        [float(theirs[i][measure.key]) for i in ids],
        [float(ours[i][measure.key]) for i in ids],
        [_image_of(ours[i]) for i in ids],
    )


def _image_of(item: Item) -> str:
    """Return the image of an item; questions on one image are not independent. Their ids are IMAGE-qK."""
    return item.get("image") or item["id"].rpartition("-q")[0] or item["id"]


def outcome(interval: Mapping[str, float | None]) -> str:
    """Return `better`, `worse`, or `open` when the interval contains 0 or is unknown."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None or not (low > 0 or high < 0):  # nan gives neither
        return "open"
    return "better" if low > 0 else "worse"


_WORDS = {"better": "better than", "worse": "worse than", "open": "not shown to differ from"}


def verdict(rows: list[dict[str, Any]], other: str) -> str:
    """Return one sentence: measures in which the next model is better than the other, worse, or neither."""
    found: dict[str, list[str]] = {word: [] for word in _WORDS}
    for row in rows:
        if row["label"] in HEADLINES:
            d = row["differences"][other]
            limits = f", 95 % interval {d['low']:+.3f} to {d['high']:+.3f}" if d["low"] == d["low"] else ""
            found[outcome(d)].append(f"{row['label']} ({d['value']:+.3f}{limits})")
    model = {"base": "the base model", "control": "the control"}.get(other, other)
    clauses = [f"{_WORDS[o]} {model} in {' and in '.join(names)}" for o, names in found.items() if names]
    return f"The next model is {', and '.join(clauses)}."

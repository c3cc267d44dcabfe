"""`gap`: estimate what a model can learn from the kept rows, before training.

A student learns nothing from labels that it would write itself. The gap of a row is the quality of its label minus the
quality of the student's own greedy text. With ground truth (`mini-gap`) both are measured. Without it, a proxy is used:
agreement of two labels from independent halves of the candidates, minus agreement of label and greedy text. Correct
labels agree with each other; where the greedy text differs from them, there is something to learn.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from sicog.answers import final_answer
from sicog.chains import ChainError
from sicog.config import Config
from sicog.console import say
from sicog.curation.claims.readers import GrammarReader, Reader, SentenceReader, Texts, UnreadableError, load_grammar
from sicog.curation.claims.support import agreements
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.records import CandidateSet, Example, Query
from sicog.stages.provenance import write_manifest, write_run_json
from sicog.stages.storage import read_records, write_json
from sicog.statistics.intervals import Interval, mean_interval
from sicog.tasks import TASKS

GAP = "gap.json"
Truth = Callable[[Query, str], float]  # truth of a compared text, in [0, 1]
Kind = Callable[[Query], str]


class GapConfig(Config):
    """Config of `sicog gap`."""

    out_dir: Path
    labels: Path
    """Kept rows, the output of `select` or `settle`."""
    greedy: Path
    """Candidate sets of the student before training: one greedy text per row, of the same input."""
    halves: tuple[Path, ...] = Field(default=(), max_length=2)
    """Labels made in the same way from each half of the candidates (`half` of `sicog claims`), for the proxy."""
    grammar: str | None = None
    """Grammar to compare captions with, as `module:NAME`; null: compare sentences with the encoder."""
    encoder: EncoderConfig = EncoderConfig()
    threshold: float = Field(default=0.65, gt=0, le=1)
    """Minimum cosine of two equal sentences."""
    require: float | None = Field(default=None, ge=-1, le=1)
    """Minimum gap (or proxy, without truth). The run stops below it, or if the interval is not above 0; null: never."""

    @model_validator(mode="after")
    def _check_halves(self) -> GapConfig:
        if len(self.halves) == 1:
            raise ValueError("halves must be two folders, with labels of each half of the candidates")
        if self.grammar is not None:
            load_grammar(self.grammar)
        return self

    def check(self) -> None:
        """Raise `ValueError` when a gap is required, but cannot be measured or estimated."""
        if self.require is not None and not self.halves:
            raise ValueError(
                "halves is missing, but require needs it to estimate the gap without truth. Set halves or require=null"
            )


@dataclass(frozen=True)
class Pair:
    """A label and the student's greedy text of the same row, in their compared form; None for a broken chain."""

    query: Query
    kind: str
    label: str
    greedy: str | None


def gap(config: GapConfig, truth: Truth | None = None, kind: Kind | None = None, **inputs: Path) -> Path:
    """Write gap.json; returns the output folder. Raises `ValueError` when the gap is below `require`.

    truth, kind: functions of a world with ground truth; inputs: the files behind them.
    """
    if truth is None:
        config.check()
    halves = {f"half-{n}": path for n, path in enumerate(config.halves)}
    given = {"labels": config.labels, "greedy": config.greedy, **halves, **inputs}
    write_run_json(config.out_dir, step="gap", config=config, inputs=given)
    pairs, missing = _pairs(config, kind)
    if not pairs and not missing:
        raise ValueError(f"{config.labels} has no labels. See its dropped.jsonl for the reasons")
    if not pairs:
        raise ValueError(f"no row of {config.labels} is in {config.greedy}. Sample both from the same input")
    groups = [pair.query.images[0] if pair.query.images else pair.query.id for pair in pairs]
    found: dict[str, Any] = {"rows": len(pairs), "labels_without_greedy_text": missing}
    if truth is not None:
        label = [truth(p.query, p.label) for p in pairs]
        greedy = [0.0 if p.greedy is None else truth(p.query, p.greedy) for p in pairs]
        found |= {"label": _json(mean_interval(label, groups)), "greedy": _json(mean_interval(greedy, groups))}
        values = [a - b for a, b in zip(label, greedy, strict=True)]
        found["gap"] = _json(mean_interval(values, groups))
        found["by_kind"] = _means_by_kind(pairs, values, groups)
    if config.halves:
        found["proxy"] = _proxy(config, pairs)
    write_json(config.out_dir / GAP, found)
    _print_result(config, found)
    _check_required(config, found["gap"] if truth is not None else found.get("proxy"))
    write_manifest(config.out_dir, "gap", [GAP])
    return config.out_dir


def _pairs(config: GapConfig, kind: Kind | None) -> tuple[list[Pair], int]:
    """Return the rows of both, and the number of labels without greedy text."""
    pairs: list[Pair] = []
    missing = 0
    sets = {row.id: row for row in read_records(config.greedy, CandidateSet)}
    for example in read_records(config.labels, Example):
        row = sets.get(example.id.partition("~")[0])
        if row is None:
            missing += 1
            continue
        label = compared_text(row.query, example.turns[-1].text, str(example.extra.get("style", "")))
        if label is None:
            raise ValueError(
                f"row {example.id} of {config.labels} has no style, or its text does not match it. Use rows of `select`"
            )
        candidate = row.candidates[0]
        style = str(example.extra["style"])
        greedy = compared_text(row.query, candidate.text, candidate.style)
        pairs.append(Pair(row.query, kind(row.query) if kind else style, label, greedy))
    return pairs, missing


def compared_text(query: Query, text: str, style: str) -> str | None:
    """Return the compared part of a text; None for a broken chain or an unknown style."""
    try:
        return TASKS[query.task].compared(text, style)
    except (ChainError, ValueError):
        return None


def _means_by_kind(pairs: Sequence[Pair], values: Sequence[float], groups: Sequence[str]) -> dict[str, Any]:
    by: dict[str, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        by[pair.kind].append(number)
    return {
        k: {**_json(mean_interval([values[i] for i in rows], [groups[i] for i in rows])), "rows": len(rows)}
        for k, rows in sorted(by.items())
    }


def _proxy(config: GapConfig, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return agreement of the halves' labels minus agreement of label and greedy text, over rows in all three."""
    one, other = (dict(_texts(config, path)) for path in config.halves)
    chosen = [p for p in pairs if p.query.id in one and p.query.id in other]
    if not chosen:
        raise ValueError(
            f"no row of {config.labels} is in both halves {config.halves[0]} and {config.halves[1]}. Use one input"
        )
    agree = agreement(config)
    reliable = agree([(p.query, one[p.query.id], other[p.query.id]) for p in chosen])
    greedy = agree([(p.query, p.label, p.greedy or "") for p in chosen])
    groups = [p.query.images[0] if p.query.images else p.query.id for p in chosen]
    return {
        **_json(mean_interval([a - b for a, b in zip(reliable, greedy, strict=True)], groups)),
        "reliability": sum(reliable) / len(chosen),
        "agreement_with_greedy": sum(greedy) / len(chosen),
        "rows": len(chosen),
    }


def _texts(config: GapConfig, folder: Path) -> Iterator[tuple[str, str]]:
    for example in read_records(folder, Example):
        query = Query(id=example.id, task=example.source, images=example.images)
        text = compared_text(query, example.turns[-1].text, str(example.extra.get("style", "")))
        if text is not None:
            yield example.id.partition("~")[0], text


def agreement(config: GapConfig) -> Callable[[Sequence[tuple[Query, str, str]]], list[float]]:
    """Return the function for agreement of two texts, in [0, 1]: equality of short final answers, else F1 of claims."""

    def short(rows: Sequence[tuple[Query, str, str]]) -> list[float]:
        return [float(final_answer(a, q.question) == final_answer(b, q.question)) for q, a, b in rows]

    def long(rows: Sequence[tuple[Query, str, str]]) -> list[float]:
        read = _reader(config).read([Texts(q, (a, b), (a, b), (None, None)) for q, a, b in rows])
        found = [math.nan if isinstance(r, UnreadableError) else agreements(r.owner, r.stated, "f1")[0] for r in read]
        return [0.0 if math.isnan(value) else float(value) for value in found]

    return lambda rows: short(rows) if TASKS[rows[0][0].task].votes else long(rows)


def _reader(config: GapConfig) -> Reader:
    if config.grammar is not None:
        return GrammarReader(config.grammar)
    from sicog.curation.vectors.prepare import embedder_of

    return SentenceReader(config.threshold, embedder=embedder_of(config.encoder))


def _check_required(config: GapConfig, found: Mapping[str, Any] | None) -> None:
    if config.require is None:
        return
    assert found is not None
    if not (found["value"] >= config.require and found["low"] > 0):
        raise ValueError(
            f"the round is stopped: the gap is {_format_interval(found)}, but at least {config.require:g} with an "
            f"interval above 0 is required. The labels in {config.labels} are hardly better than the student's own "
            "texts. Use more or other candidates (several checkpoints, a closer look) or a higher support, or set "
            "require=null"
        )


def _print_result(config: GapConfig, found: Mapping[str, Any]) -> None:
    parts = [
        f"gap {_format_interval(found['gap'])}" if "gap" in found else "",
        f"proxy {_format_interval(found['proxy'])}" if "proxy" in found else "",
    ]
    told = "; ".join(filter(None, parts)) or "not measured: truth and halves are missing"
    missing = found["labels_without_greedy_text"]
    left_out = f", {missing} labels without a greedy text" if missing else ""
    rows = f"{found['rows']} rows{left_out}"
    say(f"{config.out_dir.name}: {told} ({rows})")


def _format_interval(value: Mapping[str, float]) -> str:
    return f"{value['value']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def _json(interval: Interval) -> dict[str, float]:
    return {k: round(v, 6) for k, v in interval._asdict().items()}

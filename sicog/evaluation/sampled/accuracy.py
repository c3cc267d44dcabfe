"""`sicog eval-samples`: accuracy against the number of samples, of several models, with and without chains of thought.

It reads the output of `sicog sample` and a table of true answers.
curves.json: every figure with its interval, and the probe;  curves.csv: the same as a table;  curves.svg: a plot
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from sicog.answers import final_answer as chosen_answer
from sicog.chains import ChainError
from sicog.config import Config
from sicog.console import say
from sicog.evaluation.forms import Style, listed_options
from sicog.evaluation.kit.result_files import read_table
from sicog.evaluation.sampled.answer_scores import accepted_answers, score_answer
from sicog.evaluation.sampled.picture import draw
from sicog.evaluation.sampled.select_samples import QuestionSamples, score_at_k
from sicog.records import Candidate, CandidateSet
from sicog.stages.provenance import write_manifest, write_run_json
from sicog.stages.storage import is_finished, read_json, read_records, table_bytes, write_bytes, write_json
from sicog.statistics.bootstrap import difference, estimate
from sicog.statistics.intervals import with_limits
from sicog.tasks import REASONING

Select = Literal["greedy", "vote", "mbr", "oracle"]
THINKING: Style = "cot"
DIRECT: Style = "direct"


class CurveConfig(Config):
    """One curve: a model's samples in one style."""

    model: str
    """Name of the model in the table."""
    style: str
    """Style of the samples."""
    runs: tuple[Path, ...] = Field(min_length=1)
    """Output folders of `sicog sample`."""
    greedy: Path | None = None
    """Output folder of `sicog sample` at temperature 0."""


class EvalSamplesConfig(Config):
    """Accuracy against the number of samples, one curve per model and style."""

    volatile: ClassVar[frozenset[str]] = frozenset({"title"})
    curves: tuple[CurveConfig, ...] = Field(min_length=1)
    """The curves."""
    answers: Path
    """A TSV with index, answer, and optional category and group (what rows share)."""
    form: Literal["short", "document", "chart", "ocr", "choice", "yes_no"] = "short"
    """Scoring of answers, as in a suite: short (exact), document, chart, ocr, yes_no (exact), or choice (exact letter;
    the options are in columns A, B, ...)."""
    select: tuple[Select, ...] = ("greedy", "vote", "mbr", "oracle")
    """How to choose one of K samples. greedy: the run at temperature 0; oracle: any correct sample counts (pass@K)."""
    ks: tuple[int, ...] = ()
    """Numbers of samples; empty: powers of two, and all."""
    subsets: int = Field(default=20, ge=1)
    """Number of random subsets for each K smaller than all samples."""
    seed: int = Field(default=0, ge=0)
    title: str = ""
    """Title of the plot."""
    out_dir: Path

    @model_validator(mode="after")
    def _check_curves(self) -> EvalSamplesConfig:
        names = [(c.model, c.style) for c in self.curves]
        if repeated := next((n for n in names if names.count(n) > 1), None):
            raise ValueError(
                f"two curves have model {repeated[0]!r} and style {repeated[1]!r}. Merge them into one curve"
            )
        if "greedy" in self.select and (missing := [c.model for c in self.curves if c.greedy is None]):
            raise ValueError(
                f"the greedy run of curve {missing[0]!r} is missing. "
                "Set its folder at temperature 0, or remove select=greedy"
            )
        return self


def eval_samples(config: EvalSamplesConfig) -> Path:
    """Write the curves, the probe and the plot; returns the output folder."""
    runs = [folder for c in config.curves for folder in (*c.runs, *((c.greedy,) if c.greedy else ()))]
    inputs = {"answers": config.answers, **{f"run-{i}": folder for i, folder in enumerate(runs)}}
    write_run_json(config.out_dir, step="eval-samples", config=config, inputs=inputs)
    if is_finished(config.out_dir):
        found = read_json(config.out_dir / "curves.json")
        _print_result(found, config.out_dir)
        return config.out_dir
    truth = _truth(config.answers)
    lines = {(c.model, c.style): _samples_of_style(c.runs, c.style, config.form, truth) for c in config.curves}
    ks = _ks(config, lines)
    points = [point for c in config.curves for point in _curve(config, c, lines[c.model, c.style], truth, ks)]
    models = list(dict.fromkeys(c.model for c in config.curves))
    probe = [_probe(model, lines, ks) for model in models if {(model, THINKING), (model, DIRECT)} <= lines.keys()]
    unread = [
        {"model": model, "style": style, "share": _unparsed_percent(line)} for (model, style), line in lines.items()
    ]
    found = {"ks": ks, "questions": len(truth), "points": points, "unread": unread, "probe": probe}
    write_json(config.out_dir / "curves.json", found)
    write_bytes(config.out_dir / "curves.csv", table_bytes(points, ","))
    write_bytes(config.out_dir / "curves.svg", draw(points, probe, title=config.title).encode())
    names = ("curves.json", "curves.csv", "curves.svg")
    write_manifest(config.out_dir, "eval-samples", names, rows=len(truth))
    _print_result(found, config.out_dir)
    return config.out_dir


def _truth(path: Path) -> dict[str, dict[str, Any]]:
    rows = read_table(path)
    if missing := [name for name in ("index", "answer") if rows and name not in rows[0]]:
        raise ValueError(f"{path}: the column {missing[0]!r} is missing. Add it")
    truth = {str(row["index"]): row for row in rows}
    if not truth:
        raise ValueError(f"{path} has no rows. Give a table of answers")
    return truth


def _samples_of_style(
    folders: Sequence[Path], style: str, form: str, truth: Mapping[str, Any]
) -> list[QuestionSamples]:
    """Return each question's samples of that style, in the order of the truth. Raises `ValueError` for missing ones."""
    found: dict[str, list[Candidate]] = {}
    for folder in folders:
        for row in read_records(folder, CandidateSet):
            found.setdefault(row.id, []).extend(c for c in row.candidates if c.style == style)
    names = ", ".join(map(str, folders))
    if missing := [i for i in truth if not found.get(i)]:
        raise ValueError(
            f"{names}: {len(missing)} questions have no sample of style {style!r}, first {missing[0]!r}. Sample them"
        )
    if odd := found.keys() - truth.keys():
        raise ValueError(
            f"{names}: question {min(odd)!r} is not in the table of answers. Use the table of these questions"
        )
    return [_score_samples(i, sorted(found[i], key=lambda c: (c.seed, c.index)), form, truth[i]) for i in truth]


def _score_samples(row_id: str, candidates: Sequence[Candidate], form: str, row: Mapping[str, Any]) -> QuestionSamples:
    answers = tuple(_answer(c) for c in candidates)
    if form == "choice":  # as in the kit, `B`, `B. blue` and `blue` are the same answer
        options = listed_options(row)
        answers = tuple(None if a is None else chosen_answer(a, options) for a in answers)
    accepted = accepted_answers(row["answer"])
    scorer = "short" if form in ("choice", "yes_no") else form
    scores = tuple(0.0 if a is None else score_answer(scorer, a, accepted) for a in answers)
    return QuestionSamples(row_id, answers, scores, str(row.get("group") or row_id), str(row.get("category") or ""))


def _unparsed_percent(line: Sequence[QuestionSamples]) -> float:
    """Return the percentage of samples without an answer."""
    answers = [a for s in line for a in s.answers]
    return round(100 * sum(a is None for a in answers) / len(answers), 4)


def _answer(candidate: Candidate) -> str | None:
    """Return the answer to compare; None for a truncated sample, or one that does not parse in its style."""
    if candidate.finish_reason == "length":
        return None
    if candidate.style not in REASONING.styles:
        return candidate.text
    try:
        return REASONING.compared(candidate.text, candidate.style)
    except ChainError:
        return None


def _ks(config: EvalSamplesConfig, lines: Mapping[tuple[str, str], Sequence[QuestionSamples]]) -> list[int]:
    least = min(len(s.answers) for line in lines.values() for s in line)
    if too_many := [k for k in config.ks if not 1 <= k <= least]:
        raise ValueError(
            f"ks: {too_many[0]} is larger than {least}, the number of samples of some question. Lower ks or sample more"
        )
    return list(config.ks) or sorted({*(2**i for i in range(least.bit_length()) if 2**i <= least), least})


def _curve(
    config: EvalSamplesConfig,
    curve: CurveConfig,
    line: Sequence[QuestionSamples],
    truth: Mapping[str, Any],
    ks: Sequence[int],
) -> Iterable[dict[str, Any]]:
    """Return one figure for each selection method and each K."""
    groups = [s.group for s in line]
    for select in config.select:
        if select == "greedy":
            assert curve.greedy is not None
            one = _samples_of_style([curve.greedy], curve.style, config.form, truth)
            values = {1: np.array([s.scores[0] for s in one])}
        else:
            draws = {"subsets": config.subsets, "seed": config.seed}
            values = {k: np.array([score_at_k(select, s, k, **draws) for s in line]) for k in ks}
        for k, value in values.items():
            own = estimate([(value, np.ones(len(value)))], groups)
            named = {"model": curve.model, "style": curve.style, "select": select, "k": k}
            yield {**named, **{key: round(x, 4) for key, x in own._asdict().items()}}


def _probe(model: str, lines: Mapping[tuple[str, str], Sequence[QuestionSamples]], ks: Sequence[int]) -> dict[str, Any]:
    """Return the gain of chains of thought ("thinking to recall"): pass@K with chains minus pass@K without.

    unlocked: share of questions with a correct sample with chains but none without, at the largest K; lost: the
    opposite. by_category: the difference at the largest K.
    """
    thinking, direct = lines[model, THINKING], lines[model, DIRECT]
    groups = [s.group for s in direct]

    def passes(line: Sequence[QuestionSamples], k: int) -> np.ndarray:
        return np.array([score_at_k("oracle", s, k, subsets=1, seed=0) for s in line])

    def gap(k: int, places: Sequence[int]) -> dict[str, float]:
        pair = [[(passes([line[i] for i in places], k), np.ones(len(places)))] for line in (direct, thinking)]
        found = difference(pair[0], pair[1], [groups[i] for i in places])
        return {key: round(x, 4) for key, x in found._asdict().items()}

    categories = sorted({s.category for s in direct if s.category})
    by_category = {c: gap(ks[-1], [i for i, s in enumerate(direct) if s.category == c]) for c in categories}
    with_chain, without = (passes(line, ks[-1]) > 0 for line in (thinking, direct))
    return {
        "model": model,
        "gap": [{"k": k, **gap(k, range(len(direct)))} for k in ks],
        "by_category": by_category,
        "unlocked": round(float(100 * (with_chain & ~without).mean()), 4),
        "lost": round(float(100 * (without & ~with_chain).mean()), 4),
    }


def _figure(of: Mapping[str, Any], form: str) -> str:
    """Return `value [low, high]`; without an interval, for example when all rows share one image, the value."""
    return with_limits(of["value"], of["low"], of["high"], form)


def _print_result(found: Mapping[str, Any], folder: Path) -> None:
    points, probe = found["points"], found["probe"]
    largest = max(p["k"] for p in points)
    for p in points:
        if p["k"] == largest or p["select"] == "greedy":
            say(f"{p['model']}, {p['style']}, {p['select']} of {p['k']}: {_figure(p, '.1f')} %")
    for one in found["unread"]:
        if one["share"]:
            say(
                f"{one['model']}, {one['style']}: {one['share']:.1f} % of the samples are truncated or do not parse in "
                "their style; they count as wrong",
                style="yellow",
            )
    for one in probe:
        last = one["gap"][-1]
        say(
            f"{one['model']}: pass@{last['k']} with chains minus without {_figure(last, '+.1f')}, "
            f"unlocked {one['unlocked']:.1f} %, lost {one['lost']:.1f} %"
        )
    say(f"{folder / 'curves.svg'}")

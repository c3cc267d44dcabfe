"""Evaluate a checkpoint on a split of the mini world with ground truth: greedy answers and captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field

from sicog.chains import ChainError
from sicog.config import Config
from sicog.console import say, say_finished
from sicog.mini.truth import (
    SceneTruth,
    answer_is_right,
    caption_scores,
    chance_accuracy,
    correct_places,
    form,
    placed_f1,
    read_truth,
    truth_file,
)
from sicog.records import CandidateSet
from sicog.stages.provenance import digest_path, write_manifest, write_run_json
from sicog.stages.storage import MANIFEST, is_finished, read_json, read_records, write_bytes, write_json
from sicog.statistics.intervals import Interval, mean_interval
from sicog.tasks import REASONING


class MiniEvalConfig(Config):
    """Config of `mini-eval`: checkpoint, split and styles."""

    volatile: ClassVar[frozenset[str]] = frozenset({"name"})
    name: str
    """Name of the evaluation in the report."""
    checkpoint: Path
    """The checkpoint to evaluate."""
    data: Path
    """The mini world's folder."""
    out_dir: Path
    split: Literal["test", "dev"] = "test"
    """Split to evaluate on."""
    question_style: str = "direct"
    """Style of all questions."""
    chain_style: str = "cot"
    """Style of answers with chains."""
    chain_questions: int = Field(default=600, ge=0)
    """Number of questions, the first ones, to answer in `chain_style` too; 0: none."""
    caption_style: str = "dd"
    """Style of captions."""
    max_new_tokens: int = 256
    batch_size: int = 128


@dataclass(frozen=True)
class _Answer:
    id: str
    image: str
    type: str
    held_out: bool
    answer: str
    truth: str
    right: bool
    asked: tuple[str, str, str]  # type, form and answer, to compute chance


@dataclass(frozen=True)
class _Caption:
    id: str
    held_out: bool
    text: str
    precision: float
    recall: float
    f1: float
    placed_f1: float
    placed: int  # correctly named things, and correctly placed things
    named: int


def mini_eval(config: MiniEvalConfig) -> Path:
    """Write metrics.json, answers.jsonl and captions.jsonl; returns the output folder."""
    write_run_json(
        config.out_dir,
        step="mini-eval",
        config=config,
        inputs={"checkpoint": config.checkpoint, "truth": truth_file(config.data, config.split)},
    )
    if is_finished(config.out_dir):
        say_finished("mini-eval", config.out_dir)
        return config.out_dir
    truths = read_truth(config.data, config.split)
    answers = _answers(_sample(config, "reasoning", config.question_style), truths, config.question_style)
    captions = _captions(_sample(config, "captioning", config.caption_style), truths)
    checkpoint = digest_path(config.checkpoint)
    metrics: dict[str, Any] = {"name": config.name, "checkpoint": checkpoint}
    metrics |= {"questions": _question_metrics(answers), "captions": _caption_metrics(captions)}
    if config.chain_questions:
        chains = _answers(_sample(config, "reasoning", config.chain_style), truths, config.chain_style)
        metrics["chains"] = _question_metrics(chains)
        write_bytes(config.out_dir / "chains.jsonl", b"".join(orjson.dumps(asdict(a)) + b"\n" for a in chains))
    write_bytes(config.out_dir / "answers.jsonl", b"".join(orjson.dumps(asdict(a)) + b"\n" for a in answers))
    write_bytes(config.out_dir / "captions.jsonl", b"".join(orjson.dumps(asdict(c)) + b"\n" for c in captions))
    write_json(config.out_dir / "metrics.json", metrics)
    names = ["answers.jsonl", "captions.jsonl", "metrics.json", *(["chains.jsonl"] if config.chain_questions else [])]
    counts = _counts([config.out_dir / task for task in ("reasoning", "captioning")], len(answers) + len(captions))
    write_manifest(config.out_dir, "mini-eval", names, **counts)
    say(
        f"{config.name}: question accuracy {_format_interval(metrics['questions']['accuracy'])}, "
        f"caption F1 {_format_interval(metrics['captions']['f1'])}, "
        f"places {_format_interval(metrics['captions']['place'])}"
    )
    return config.out_dir


def _sample(config: MiniEvalConfig, task: Literal["captioning", "reasoning"], style: str) -> list[CandidateSet]:
    """Return one greedy answer per query."""
    from sicog.generation.closer import StyleCount
    from sicog.generation.config import SampleConfig
    from sicog.generation.sample import sample

    captioning, chains = task == "captioning", task == "reasoning" and style == config.chain_style
    source = config.data / f"{config.split}_{'images' if captioning else 'questions'}.json"
    folder = sample(
        SampleConfig(
            checkpoint=config.checkpoint,
            input=_first_rows(source, config.chain_questions, config.out_dir / "asked.json") if chains else source,
            image_folder=config.data,
            out_dir=config.out_dir / ("chains" if chains else task),
            task=task,
            styles=(StyleCount(style=style, n=1),),
            temperature=0.0,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
            max_dropped_share=0.0,
        )
    )
    return list(read_records(folder, CandidateSet))


def _first_rows(source: Path, n: int, path: Path) -> Path:
    """Return a file with the first rows of the source, or the source itself if it has no more rows."""
    rows = read_json(source)
    if len(rows) <= n:
        return source
    write_bytes(path, orjson.dumps(rows[:n]))
    return path


def _counts(sampled: Sequence[Path], rows_out: int) -> dict[str, Any]:
    """Return rows in, dropped and failed of sampling, and the measured rows; check that no row is lost."""
    manifests = [read_json(folder / MANIFEST) for folder in sampled]
    rows_in = sum(m["rows_in"] for m in manifests)
    dropped, failed = (dict(sum((Counter(m[kind]) for m in manifests), Counter())) for kind in ("dropped", "failed"))
    if rows_in != rows_out + sum(dropped.values()) + sum(failed.values()):
        raise AssertionError(f"mini-eval: {rows_in} rows in, {rows_out} out, {dropped} dropped, {failed} failed")
    return {"rows_in": rows_in, "rows_out": rows_out, "dropped": dropped, "failed": failed}


def _answers(sets: Sequence[CandidateSet], truths: dict[str, SceneTruth], style: str) -> list[_Answer]:
    """Return the answers; of a chain its last step, of a broken chain an empty text."""
    questions = {q.id: (image, q) for image, scene in truths.items() for q in scene.questions}
    rows = []
    for row in sets:
        (image, question), text = questions[row.id], row.candidates[0].text
        try:
            text = REASONING.compared(text, style)
        except ChainError:
            text = ""
        right = answer_is_right(text, question.answer, question.question)
        asked = (question.type, form(question.type, question.kind), question.choice)
        rows.append(_Answer(row.id, image, question.type, question.held_out, text, question.answer, right, asked))
    if REASONING.style(style).chain is None and len(rows) != len(questions):
        raise ValueError(f"{len(questions)} questions have a truth, {len(rows)} were answered")
    return rows


def _captions(sets: Sequence[CandidateSet], truths: dict[str, SceneTruth]) -> list[_Caption]:
    rows = []
    for row in sets:
        scene, text = truths[row.id], row.candidates[0].text
        placed = correct_places(text, scene.scene)
        scores = caption_scores(text, scene.scene)._asdict()
        counts = {"placed": sum(placed), "named": len(placed)}
        rows.append(_Caption(row.id, scene.held_out, text, **scores, placed_f1=placed_f1(text, scene.scene), **counts))
    if len(rows) != len(truths):
        raise ValueError(f"{len(truths)} images have a truth, {len(rows)} were captioned")
    return rows


def _question_metrics(rows: Sequence[_Answer]) -> dict[str, Any]:
    def accuracy(chosen: Sequence[_Answer]) -> dict[str, Any]:
        # Questions on one image are not independent, so use the cluster-robust interval.
        right = mean_interval([float(r.right) for r in chosen], groups=[r.image for r in chosen])
        return {**_interval_dict(right), "n": len(chosen)}

    return {
        "n": len(rows),
        "accuracy": accuracy(rows),
        "by_type": {t: accuracy([r for r in rows if r.type == t]) for t in sorted({r.type for r in rows})},
        "seen": accuracy([r for r in rows if not r.held_out]),
        "held_out": accuracy([r for r in rows if r.held_out]),
        "chance": {k: round(v, 6) for k, v in chance_accuracy(r.asked for r in rows).items()},
    }


def _caption_metrics(rows: Sequence[_Caption]) -> dict[str, Any]:
    def scores(chosen: Sequence[_Caption]) -> dict[str, Any]:
        names = ("precision", "recall", "f1", "placed_f1")
        found = {k: _interval_dict(mean_interval([getattr(r, k) for r in chosen])) for k in names}
        things = [(float(k < r.placed), r.id) for r in chosen for k in range(r.named)]
        place = mean_interval([right for right, _ in things], groups=[image for _, image in things])
        return {**found, "place": _interval_dict(place), "n": len(chosen)}

    seen, held_out = [r for r in rows if not r.held_out], [r for r in rows if r.held_out]
    return {**scores(rows), "seen": scores(seen), "held_out": scores(held_out)}


def _interval_dict(interval: Interval) -> dict[str, float]:
    return {k: round(v, 6) for k, v in interval._asdict().items()}


def _format_interval(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"

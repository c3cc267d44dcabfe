"""A run folder as the steps write it, made in a moment: real mini world, real records and `select`, invented scores."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import orjson

from sicog.curation.select.select import SelectConfig, select
from sicog.curation.select.sweep import SweepConfig, sweep_scored
from sicog.mini.scene import COLOURS, SHAPES
from sicog.mini.text import cod_caption, detailed_description
from sicog.mini.truth import answer_is_right, caption_scores, read_truth
from sicog.mini.write_world import MiniDataConfig, write_mini_data
from sicog.records import Candidate, Query, ScoredCandidate, ScoredSet
from sicog.stages.storage import MANIFEST, write_bytes, write_dataset, write_json
from sicog.statistics.intervals import mean_interval, share_interval
from sicog.tasks import CAPTIONING, REASONING

SCRIPT = "<script>alert('r13')</script><img src=x onerror=alert(1)>"
ENCODER = "an encoder of tests"
FEW = {name: 1 for name in ("align", "sft", "warmup_captions", "warmup_reasoning", "dev", "test")}


def page_data(text: str) -> dict:
    """What the page's script starts from, as the browser reads it."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def lines(path: Path, rows) -> None:
    write_bytes(path, b"".join(orjson.dumps(row) + b"\n" for row in rows))


def fake_run(folder: Path, *, images: int = 24, items: int = 60, seed: int = 0) -> dict:
    """Write the run and return the values of its `ReportConfig`."""
    rng = random.Random(seed)
    data = folder / "data"
    write_mini_data(MiniDataConfig(**FEW, unlabelled=images, seed=1), data)
    truths = read_truth(data, "unlabelled")
    write_dataset(folder / "captions-scored", [_caption_set(t, rng) for t in truths.values()])
    write_dataset(folder / "answers-scored", [_answer_set(t, q, rng) for t in truths.values() for q in t.questions])
    values = {
        "out_dir": folder / "report",
        "title": "A fake run",
        "funnel": ["warmup-captions/chain", "captions-selected", "answers-selected"],
        "training": ["align", "next"],
        "truth": data / "truth" / "unlabelled.jsonl",
        "image_folder": data,
        "evaluations": {name: folder / f"eval-{name}" for name in ("base", "next", "control")},
    }
    for name, key, by in (("captions", "captions", "score"), ("answers", "reasoning", "vote")):
        threshold = sweep_scored(
            SweepConfig(input=folder / f"{name}-scored", out_dir=folder / f"{name}-threshold", by=by, min_candidates=2),
            _truth(truths),
        )
        selected = folder / f"{name}-selected"
        rule = {"by": by, "threshold_file": threshold, "min_candidates": 2}
        select(SelectConfig(input=folder / f"{name}-scored", out_dir=selected, **rule))
        values[key] = {"scored": folder / f"{name}-scored", "selected": selected, "threshold_file": threshold}
    counts = {"rows_in": images, "rows_out": images - 3, "dropped": {"chain": 2}, "failed": {"unlucky": 1}}
    write_json(folder / "warmup-captions" / "chain" / MANIFEST, counts)
    for name, start in (("align", 6.0), ("next", 2.0)):
        fake_training(folder / name, start, 300, rng)
    for name, skill in (("base", 0.55), ("next", 0.7), ("control", 0.56)):
        fake_evaluation(folder / f"eval-{name}", name, skill, items, seed)
    return values


def fake_training(folder: Path, start: float, updates: int, rng: random.Random) -> None:
    loss = [start / (1 + 0.03 * i) + rng.uniform(0, 0.2) for i in range(updates)]
    lines(folder / "metrics.jsonl", ({"step": i + 1, "loss": x, "learning_rate": 1e-3} for i, x in enumerate(loss)))
    write_json(
        folder / MANIFEST, {"step": "train", "stage": "sft", "samples": 32 * updates, "rows_in": 9, "rows_out": 9}
    )


def fake_evaluation(folder: Path, name: str, skill: float, items: int, seed: int) -> None:
    """`items` questions on a fifth as many images, and as many captions; equal seeds make models err alike."""
    draw = random.Random(seed)
    types = ("compare", "count", "exist")
    answers = [
        {
            "id": f"test-{i // 5:05d}-q{i % 5}",
            "type": types[i % 3],
            "held_out": i % 2 == 0,
            "right": draw.random() < skill,
        }
        for i in range(items)
    ]
    captions = []
    for i in range(items):
        f1 = min(1.0, max(0.0, draw.gauss(skill, 0.2)))
        captions.append(
            {"id": f"test-{i:05d}", "held_out": i % 2 == 1, "text": "", "precision": f1, "recall": f1, "f1": f1}
        )
    write_evaluation(folder, name, answers, captions)


def write_evaluation(folder: Path, name: str, answers: list[dict], captions: list[dict]) -> None:
    """metrics.json, answers.jsonl and captions.jsonl as `sicog mini-eval` writes them."""

    def accuracy(rows):
        return {**share_interval(sum(r["right"] for r in rows), len(rows))._asdict(), "n": len(rows)}

    def scores(rows):
        names = ("precision", "recall", "f1")
        return {k: mean_interval([r[k] for r in rows])._asdict() for k in names} | {"n": len(rows)}

    def halves(rows, measure):
        return {k: measure([r for r in rows if r["held_out"] is v]) for k, v in (("seen", False), ("held_out", True))}

    types = sorted({a["type"] for a in answers})
    questions = {"n": len(answers), "accuracy": accuracy(answers), **halves(answers, accuracy)}
    questions["by_type"] = {t: accuracy([a for a in answers if a["type"] == t]) for t in types}
    metrics = {"name": name, "checkpoint": "c0ffee" * 8, "questions": questions}
    metrics["captions"] = {**scores(captions), **halves(captions, scores)}
    write_json(folder / "metrics.json", metrics)
    lines(folder / "answers.jsonl", answers)
    lines(folder / "captions.jsonl", captions)
    write_json(folder / MANIFEST, {"rows_in": len(answers), "rows_out": len(answers)})


def _truth(truths):
    answers = {q.id: q.answer for t in truths.values() for q in t.questions}

    def of(query: Query, text: str) -> float:
        if query.task == "captioning":
            return caption_scores(text, truths[query.id].scene).f1
        return float(answer_is_right(text, answers[query.id]))

    return of


def _garbled(text: str, rng: random.Random, share: float) -> str:
    """The text with some colours and shapes replaced, as a model that does not see well would write."""
    words = text.split(" ")
    for pool in (COLOURS, SHAPES):
        words = [rng.choice(pool) if w in pool and rng.random() < share else w for w in words]
    return " ".join(words)


def _caption_set(truth, rng: random.Random) -> ScoredSet:
    query = Query(id=truth.scene.id, task="captioning", images=(truth.image,))
    candidates = []
    skill = rng.random()
    for index, style in enumerate(("cod", "cod", "dd")):
        text = cod_caption(truth.scene) if style == "cod" else detailed_description(truth.scene)
        text = _garbled(text, rng, skill * rng.random())
        if index == 2 and truth.scene.id.endswith("0"):
            text += SCRIPT
        compared = CAPTIONING.compared(text, style)
        score = round(0.97 - 0.2 * skill * rng.random() - 0.02 * rng.random(), 6)
        candidates.append(_scored(query, CAPTIONING.prompt(query, style), style, index, text, compared, score, None))
    if rng.random() < 0.2:
        last = candidates[-1]
        candidates[-1] = last.model_copy(update={"compared": None, "excluded": "cut", "score": None})
    return ScoredSet(id=query.id, query=query, candidates=tuple(candidates), encoder=ENCODER)


def _answer_set(truth, question, rng: random.Random) -> ScoredSet:
    query = Query(id=question.id, task="reasoning", images=(truth.image,), question=question.question)
    wrong = "no" if question.answer == "yes" else "yes" if question.answer == "no" else "seven"
    answers = [question.answer if rng.random() < 0.6 else wrong for _ in range(5)]
    candidates = []
    for index, answer in enumerate(answers):
        vote = answers.count(answer) / len(answers)
        style = "direct" if index == 4 else "cot"
        steps = zip(
            ("Clarify.", "Look.", "Reason.", "Conclude."), ("The task.", "The image.", "So.", answer), strict=True
        )
        text = answer if style == "direct" else "\n\n".join(f"Step {k}: {h}\n{b}" for k, (h, b) in enumerate(steps, 1))
        score = round(0.6 + 0.4 * vote - 0.1 * rng.random(), 6)
        prompt = REASONING.prompt(query, style)
        candidates.append(_scored(query, prompt, style, index, text, REASONING.compared(text, style), score, vote))
    return ScoredSet(id=query.id, query=query, candidates=tuple(candidates), encoder=ENCODER)


def _scored(query, prompt, style, index, text, compared, score, vote) -> ScoredCandidate:
    candidate = Candidate(
        query_id=query.id,
        style=style,
        prompt=prompt,
        index=index,
        seed=index,
        text=text,
        finish_reason="stop",
        n_tokens=len(text.split()),
        checkpoint="0" * 64,
    )
    return ScoredCandidate(candidate=candidate, compared=compared, score=score, vote=vote)

"""Work folder of one checkpoint with its settings and judge: known scores, and predictions to reuse.

The kit reuses all predictions that it finds under a model's name. So each combination of settings needs its own folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sicog.evaluation.config import EXACT, EvalConfig
from sicog.evaluation.families import FAMILIES
from sicog.evaluation.forms import FORMS
from sicog.evaluation.suite import Benchmark, benchmark_identity
from sicog.model.precision import resolve_precision
from sicog.stages.provenance import digest_path, digest_value
from sicog.stages.storage import read_json

SCORES = "scores.json"
MODEL = "sicog"  # the kit's name of the model and of its files; the work folder identifies the checkpoint
UNJUDGED = "scored by a judge model only: give judge=NAME; its answers are kept"
GENERATED = ("style", "max_new_tokens", "temperature", "top_p", "seed", "slicing", "precision", "limit")


def fresh_scores(config: EvalConfig, checkpoint: Path) -> dict[str, Any]:
    """Return scores.json without scores. predictions: digest of everything that determines the answers, except data."""
    digest = digest_path(checkpoint)
    settings = {name: getattr(config, name) for name in GENERATED}
    settings["precision"] = resolve_precision(config.precision, config.device)  # do not mix answers of two of them
    forms = {name: [form.template, form.cot, form.max_new_tokens] for name, form in FORMS.items()}
    return {
        "name": config.shown_name,
        "checkpoint": {"path": str(config.checkpoint), "digest": digest},
        "predictions": digest_value({"checkpoint": digest, "forms": forms, **settings}),
        "generation": settings,
        "judge": config.judge,
        "benchmarks": {},
    }


def work_folder(config: EvalConfig, scores: Mapping[str, Any]) -> Path:
    """Return OUT/NAME-KEY; the key identifies checkpoint, prompts, settings and judge."""
    key = digest_value({"predictions": scores["predictions"], "judge": scores["judge"]})
    found = sorted(config.out_dir.glob(f"*-{key[:12]}"))  # under any name
    return found[0] if found else config.out_dir / f"{config.shown_name}-{key[:12]}"


def known_scores(scores: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Return the scores, with the scores of earlier starts."""
    earlier = read_json(work / SCORES)["benchmarks"] if (work / SCORES).is_file() else {}
    return {**scores, "benchmarks": earlier}


def is_final(score: Mapping[str, Any] | None, benchmark: Benchmark) -> bool:
    """Return whether this benchmark is complete."""
    if score is None or score["identity"] != benchmark_identity(benchmark):
        return False
    return score["value"] is not None or score["reason"] == UNJUDGED


def needs_judge(benchmark: Benchmark, judge: str) -> bool:
    """Return whether this benchmark needs a judge model, and none is set."""
    return judge == EXACT and FAMILIES[benchmark.scored_as].judged


def adopt_predictions(scores: Mapping[str, Any], work: Path, benchmarks: Sequence[Benchmark]) -> None:
    """Copy answers to the same prompts from a folder with another judge, so that a new judge reuses them."""
    for other in sorted(work.parent.glob(f"*/{SCORES}")):
        found = read_json(other)
        if other.parent == work or found["predictions"] != scores["predictions"]:
            continue
        for benchmark in benchmarks:
            known = found["benchmarks"].get(benchmark.name)
            name = f"{MODEL}_{benchmark.data_name}.xlsx"
            source, target = other.parent / MODEL / name, work / MODEL / name
            if (
                known
                and known["identity"] == benchmark_identity(benchmark)
                and source.is_file()
                and not target.is_file()
            ):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

"""`sicog eval CHECKPOINT --suite NAME`: the benchmarks of a suite through the kit's own run.py, resumed and checked.

OUT/NAME-KEY/   one work folder for each checkpoint, prompts, settings and judge
  job.json      the kit's arguments      kit.log       the kit's output
  sicog/        the kit's files          scores.json   every score with its settings, after each start
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sicog.console import say
from sicog.evaluation.config import EvalConfig
from sicog.evaluation.families import FAMILIES
from sicog.evaluation.forms import FORMS
from sicog.evaluation.kit.interpreter import kit_python
from sicog.evaluation.kit.process import ENVIRONMENT
from sicog.evaluation.kit.question_tables import DATA_ROOT, data_root
from sicog.evaluation.kit.work_folder import (
    MODEL,
    SCORES,
    UNJUDGED,
    adopt_predictions,
    fresh_scores,
    is_final,
    known_scores,
    needs_judge,
    work_folder,
)
from sicog.evaluation.suite import Benchmark, benchmark_identity, check_table, chosen_benchmarks, load_suite
from sicog.stages.launch import gpus
from sicog.stages.provenance import digest_path
from sicog.stages.storage import file_lock, read_json, write_json
from sicog.version import __version__

LOG = "kit.log"
_SHOWN_LINES = 15  # lines of the log in the error message


def evaluate(config: EvalConfig) -> Path:
    """Run the benchmarks without a score; returns the work folder with scores.json.

    Raises `ValueError` with each failed benchmark, even if the kit ended with exit code 0.
    """
    benchmarks = chosen_benchmarks(load_suite(config.suite), config.only)
    for benchmark in benchmarks:
        if benchmark.table:
            check_table(benchmark)
    python = kit_python(config.python, config.kit)
    checkpoint = imported_checkpoint(config)
    scores = fresh_scores(config, checkpoint)
    work = work_folder(config, scores)
    with file_lock(work / ".lock", work):
        scores = known_scores(scores, work)
        adopt_predictions(scores, work, benchmarks)
        todo = [b for b in benchmarks if not is_final(scores["benchmarks"].get(b.name), b)]
        for mode in ("all", "infer"):
            part = [b for b in todo if needs_judge(b, config.judge) == (mode == "infer")]
            if part:
                say(f"{config.shown_name}: {', '.join(b.name for b in part)}; see {work / LOG}")
                _run_kit(python, _job_values(config, checkpoint, work, part, mode), config, work)
                _collect_scores(scores, config, work, part)
                for place, benchmark in enumerate(benchmarks):  # order of the suite, for tables
                    scores["benchmarks"].get(benchmark.name, {})["place"] = place
                write_json(work / SCORES, scores)
    _report(scores, benchmarks, work)
    return work


def imported_checkpoint(config: EvalConfig) -> Path:
    """Return the checkpoint in our layout; a checkpoint in LLaVA's layout is imported once, next to the results."""
    file = config.checkpoint / "config.json"
    if not file.is_file():
        raise ValueError(f"{config.checkpoint} is not a checkpoint: config.json is missing. Correct the path")
    values = read_json(file)
    if config.format == "sicog":
        if (kind := values.get("model_type")) != "sicog":
            llava = "mm_projector_type" in values or "model_mode" in values
            advice = "It is in LLaVA's layout: set format=llava" if llava else "Give a checkpoint of sicog"
            raise ValueError(f"{config.checkpoint} is a checkpoint of type {kind!r}. {advice}")
        return config.checkpoint
    target = config.out_dir / "imported" / digest_path(config.checkpoint)[:12]
    if not target.is_dir():
        from sicog.model.original.checkpoint import import_checkpoint

        vision, turns = config.vision_tower, config.turn_format
        import_checkpoint(config.checkpoint, target, vision_tower=vision, turn_format=turns)
    return target


def _job_values(
    config: EvalConfig, checkpoint: Path, work: Path, part: Sequence[Benchmark], mode: str
) -> dict[str, Any]:
    """Return the input of `process.py`. Images of tables are unpacked into the work folder, once per table content."""
    answering = {"slicing", "temperature", "top_p", "seed", "device", "precision"}
    model = config.model_dump(mode="json", include={"style", "batch_size", "max_new_tokens", *answering})
    tables = {
        b.data_name: {"path": str(b.table), "form": b.form, "images": str((work / "images" / b.data_name).absolute())}
        for b in part
        if b.table
    }
    return {
        "sicog": __version__,
        "kit": str(config.kit.absolute()) if config.kit else None,
        "checkpoint": str(checkpoint.absolute()),
        "forms": {b.data_name: b.form for b in part},
        "model": model,
        "tables": tables,
        "data": [b.data_name for b in part],
        "work_dir": str(work.absolute()),
        "mode": mode,
        "judge": config.judge,
        "judge_base_url": config.judge_base_url,
        "limit": config.limit,
        "verify_data": config.verify_data,
    }


def _run_kit(python: Path, job: Mapping[str, Any], config: EvalConfig, work: Path) -> None:
    """Run the kit. Raises `ValueError` with the end of its log when it fails."""
    write_json(work / "job.json", job)
    (work / MODEL / "status.json").unlink(missing_ok=True)  # it may contain an error of an earlier start
    for name in job["tables"]:
        Path(job["tables"][name]["images"]).mkdir(parents=True, exist_ok=True)
    root = data_root(config.data_root)
    root.mkdir(parents=True, exist_ok=True)
    command = [
        str(python),
        *_launcher(config),
        "-m",
        "sicog.evaluation.kit.process",
        str((work / "job.json").absolute()),
    ]
    # Results are read as xlsx; progress bars and warnings go to the log.
    environment = {**os.environ, DATA_ROOT: str(root), "PRED_FORMAT": "xlsx", "PYTHONUNBUFFERED": "1"}
    with (work / LOG).open("ab") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode != 0:
        tail = "\n".join((work / LOG).read_text(errors="replace").splitlines()[-_SHOWN_LINES:])
        raise ValueError(f"the kit failed with exit code {done.returncode}. The end of {work / LOG}:\n{tail}")


def _launcher(config: EvalConfig) -> list[str]:
    """Return torchrun's command for several devices. The kit uses nccl, so each process needs a GPU."""
    found = len(gpus()) if config.device == "auto" else 0
    wanted = config.devices or max(1, found)
    if wanted == 1:
        return []
    if wanted > found:
        raise ValueError(
            f"devices={wanted}, but this machine has {found} GPUs. Lower devices: each process needs a GPU"
        )
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(wanted)]


def _collect_scores(scores: dict[str, Any], config: EvalConfig, work: Path, part: Sequence[Benchmark]) -> None:
    """Read status.json: the score of each benchmark, or the reason for a missing score."""
    file = work / MODEL / "status.json"
    status = read_json(file).get("datasets", {}) if file.is_file() else {}
    environment = read_json(work / ENVIRONMENT)
    for benchmark in part:
        entry = status.get(benchmark.data_name, {})
        family = FAMILIES[benchmark.scored_as]
        headline = family.headline(entry.get("metrics", {}))
        error = entry.get("error_message")
        reason = error or (None if headline else _reason(entry, benchmark, config.judge))
        scores["benchmarks"][benchmark.name] = {
            "identity": benchmark_identity(benchmark),
            "data": benchmark.data_name,
            "form": benchmark.form,
            "family": benchmark.scored_as,
            "metric": headline[0] if headline else None,
            "value": None if error or not headline else round(headline[1], 4),
            "unit": family.unit,
            "reason": reason,
            "judge": None if needs_judge(benchmark, config.judge) else config.judge,
            "prompt": FORMS[benchmark.form].template if config.style == "direct" else FORMS[benchmark.form].cot,
            "limit": config.limit,
            "paper": benchmark.paper,
            **environment,
        }


def _reason(entry: Mapping[str, Any], benchmark: Benchmark, judge: str) -> str:
    """Return the reason for a missing score when the kit reports no error."""
    if needs_judge(benchmark, judge) and entry.get("skip_reason") == "mode_infer":
        return UNJUDGED
    if skipped := entry.get("skip_reason"):
        return f"skipped by the kit: {skipped}"
    known = ", ".join(entry.get("metrics", {})) or "none"
    return f"the kit wrote no such metric as {FAMILIES[benchmark.scored_as].metric!r}; those it wrote: {known}"


def _report(scores: Mapping[str, Any], benchmarks: Sequence[Benchmark], work: Path) -> None:
    """Print the scores. Raises `ValueError` naming the benchmarks that failed."""
    failed = []
    for benchmark in benchmarks:
        score = scores["benchmarks"][benchmark.name]
        if score["value"] is not None:
            say(f"{benchmark.name}: {score['value']:.2f} {score['unit']}")
        elif score["reason"] == UNJUDGED:
            say(f"{benchmark.name}: not scored ({UNJUDGED})", style="yellow")
        else:
            failed.append(f"{benchmark.name} ({score['reason']})")
    if failed:
        raise ValueError(f"{len(failed)} of {len(benchmarks)} benchmarks failed: {'; '.join(failed)}; see {work / LOG}")

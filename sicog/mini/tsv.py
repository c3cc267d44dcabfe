"""Write the mini world as tables in VLMEvalKit's forms, with a suite: `sicog eval CHECKPOINT --suite FILE`.

short.tsv: every question of the split, asked and compared as in our own evaluation
yes_no.tsv: questions with answer yes or no;  choice.tsv: the others, with up to four options
"""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from sicog.config import Config
from sicog.console import say
from sicog.mini.scene import COLOURS, SHAPES, SIZES
from sicog.mini.text import NUMBERS
from sicog.mini.truth import QuestionTruth, SceneTruth, read_truth, truth_file
from sicog.stages.provenance import write_manifest, write_run_json
from sicog.stages.storage import table_bytes, write_bytes

SUITE = "suite.yaml"
_LETTERS = "ABCD"


class MiniTsvConfig(Config):
    """Config of `mini-tsv`: the questions to write as tables."""

    data: Path
    """The mini world's folder."""
    out_dir: Path
    split: Literal["test", "dev"] = "test"
    """Split whose questions become tables."""


def mini_tsv(config: MiniTsvConfig) -> Path:
    """Write the tables and suite.yaml; returns the output folder."""
    truth = truth_file(config.data, config.split)
    write_run_json(config.out_dir, step="mini-tsv", config=config, inputs={"truth": truth})
    scenes = list(read_truth(config.data, config.split).values())
    asked = [(scene, question) for scene in scenes for question in scene.questions]
    pictures = {s.image: base64.b64encode((config.data / s.image).read_bytes()).decode() for s in scenes}
    tables = {
        "short": [_row(s, q, pictures) for s, q in asked],
        "yes_no": [_row(s, q, pictures) for s, q in asked if _is_yes_no(q)],
        "choice": [_row(s, q, pictures) | _options(q) for s, q in asked if not _is_yes_no(q)],
    }
    tables = {form: rows for form, rows in tables.items() if rows}
    for form, rows in tables.items():
        write_bytes(config.out_dir / f"{form}.tsv", table_bytes(rows))
    listed = [{"name": f"mini-{form}", "table": f"{form}.tsv", "form": form} for form in tables]
    write_bytes(config.out_dir / SUITE, yaml.safe_dump({"benchmarks": listed}, sort_keys=False).encode())
    files = [*(f"{form}.tsv" for form in tables), SUITE]
    counts = {form: len(rows) for form, rows in tables.items()}
    write_manifest(config.out_dir, "mini-tsv", files, rows=counts)
    shown = ", ".join(f"{form} {n}" for form, n in counts.items())
    say(f"mini-tsv: rows per table: {shown}")
    return config.out_dir


def _row(scene: SceneTruth, question: QuestionTruth, pictures: dict[str, str]) -> dict[str, Any]:
    return {
        "index": question.id,
        "question": question.question,
        "answer": question.answer,
        "category": question.type,
        "group": scene.scene.id,  # questions on one image are not independent
        "image": pictures[scene.image],
    }


def _is_yes_no(question: QuestionTruth) -> bool:
    return question.answer in ("yes", "no")


def _options(question: QuestionTruth) -> dict[str, str]:
    """Return up to four options including the true one, ordered by the question's id, and the answer's letter."""
    words: Sequence[str] = next(w for w in (COLOURS, SHAPES, SIZES, NUMBERS) if question.answer in w)
    draw = random.Random(question.id)
    others = draw.sample([word for word in words if word != question.answer], min(3, len(words) - 1))
    options = draw.sample([question.answer, *others], len(others) + 1)
    letters = dict(zip(_LETTERS, options, strict=False))
    return {**letters, "answer": _LETTERS[options.index(question.answer)]}

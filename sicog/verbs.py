"""The verbs: what `sicog VERB CONFIG` and a recipe's step can run, each with its typed config. Nothing is imported
before it is used, so that plans, help and dry runs need no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from sicog.config import Config
from sicog.storage import MANIFEST, read_json


@dataclass(frozen=True)
class Verb:
    """One kind of work: `module:name` of its config and function, and which config keys say where it writes."""

    name: str
    help: str
    config: str
    function: str
    outputs: Mapping[str, str] = field(default_factory=lambda: {"out_dir": ""})  # config key -> sub-folder of the step
    shows: bool = False  # run again when done: it only prints what it made
    claims: bool = True  # each output folder with a run.json of its own; else what lies there belongs to several starts
    may_be_empty: bool = False  # keeping none of its rows is a result
    estimator: str | None = None  # `module:function` that prints what the work would take, and does none of it

    def config_type(self) -> type[Config]:
        """The config class; importing it needs no torch."""
        return _load(self.config)

    def run(self, config: Config) -> Any:
        """Do the work. Raises `ValueError` when rows went in and none was kept: what comes next would have nothing."""
        result = _load(self.function)(config)
        if not self.may_be_empty:
            for folder in result if isinstance(result, tuple) else (result,):
                if isinstance(folder, Path) and (folder / MANIFEST).is_file():
                    _check_kept(folder)
        return result

    def estimate(self, config: Config) -> None:
        """Print what the work would take."""
        assert self.estimator
        _load(self.estimator)(config)


def _check_kept(folder: Path) -> None:
    manifest = read_json(folder / MANIFEST)
    if manifest.get("rows_kept") != 0 or not manifest.get("rows_in"):
        return
    reasons = ", ".join(f"{reason} {n}" for kind in ("dropped", "failed") for reason, n in manifest[kind].items())
    file = folder / ("dropped.jsonl" if manifest["dropped"] else "failed.jsonl")
    with file.open("rb") as lines:
        first = orjson.loads(lines.readline())
    raise ValueError(
        f"{manifest['step']}: none of {manifest['rows_in']} rows was kept ({reasons}), such as {first['id']}: "
        f"{first['detail'] or first['reason']}. {file} says why of each row"
    )


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


_ANNOTATED = {"chain_dir": "chain", "plain_dir": "plain", "teacher_dir": "teacher"}
_TRAIN = ("sicog.training.config:TrainConfig", "sicog.training.run:train", {"run_dir": ""})

VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "mini-data",
            "Draw the mini world and write it in the published formats.",
            "sicog.mini.steps:MiniDataStep",
            "sicog.mini.steps:mini_data",
        ),
        Verb(
            "mini-parts",
            "The mini world's vision tower and language model: unpack the shipped ones, or train them.",
            "sicog.mini.parts_config:MiniPartsConfig",
            "sicog.mini.parts:mini_parts",
        ),
        Verb(
            "annotate",
            "Captions (with a teacher) or annotated rows to warm-up examples: chains and plain answers.",
            "sicog.annotation.revise:ReviseConfig",
            "sicog.annotation.revise:revise",
            _ANNOTATED,
            estimator="sicog.annotation.revise:print_estimate",
        ),
        Verb(
            "mini-annotate",
            "Annotate the mini world's captions with a local teacher that knows the scenes.",
            "sicog.mini.annotate:MiniAnnotateConfig",
            "sicog.mini.annotate:mini_annotate",
            _ANNOTATED,
        ),
        Verb("train", "Train one stage: warmup, align, pretrain, sft or dpo.", *_TRAIN),
        Verb(
            "sample",
            "Sample candidates for unlabelled images or questions.",
            "sicog.generation.sample:SampleConfig",
            "sicog.generation.sample:sample",
            estimator="sicog.generation.estimate:estimate",
        ),
        Verb(
            "import-candidates",
            "The original's files of captions, thoughts or candidates to candidate sets.",
            "sicog.generation.original:ImportCandidatesConfig",
            "sicog.generation.original:import_candidates",
        ),
        Verb(
            "group",
            "Group the candidates of several runs by id.",
            "sicog.generation.group:GroupConfig",
            "sicog.generation.group:group",
        ),
        Verb(
            "score",
            "Self-consistency scores of candidate sets.",
            "sicog.curation.score:ScoreConfig",
            "sicog.curation.score:score",
        ),
        Verb(
            "claims",
            "What candidates state, and how many of the others state it too.",
            "sicog.curation.claims.run:ClaimsConfig",
            "sicog.curation.claims.run:claims",
        ),
        Verb(
            "ask-claims",
            "Questions to a model about what candidates state.",
            "sicog.curation.claims.check:AskConfig",
            "sicog.curation.claims.check:ask_claims",
            may_be_empty=True,
        ),
        Verb(
            "check-claims",
            "Count the answers that confirm what candidates state.",
            "sicog.curation.claims.check:CheckConfig",
            "sicog.curation.claims.check:check_claims",
        ),
        Verb(
            "settle",
            "Write one text of a row's claims: the best candidate pruned, or what enough candidates state.",
            "sicog.curation.claims.settle:SettleConfig",
            "sicog.curation.claims.settle:settle",
        ),
        Verb(
            "sweep",
            "Choose a threshold on the mini world's development split.",
            "sicog.mini.steps:MiniSweepConfig",
            "sicog.mini.steps:mini_sweep",
        ),
        Verb(
            "select",
            "Keep the best candidate of each row, or drop the row.",
            "sicog.curation.select:SelectConfig",
            "sicog.curation.select:select",
        ),
        Verb(
            "thresholds",
            "What each threshold would keep of a scored folder: rows, mean score, mix of styles.",
            "sicog.curation.thresholds:ThresholdsConfig",
            "sicog.curation.thresholds:thresholds",
            {"out": "thresholds.json"},
            claims=False,
        ),
        Verb(
            "pair",
            "Pair answers to clean images with answers to corrupted ones, for DPO.",
            "sicog.curation.pair:PairConfig",
            "sicog.curation.pair:pair",
        ),
        Verb(
            "curate",
            "Score and select in one go.",
            "sicog.curation.curate:CurateConfig",
            "sicog.curation.curate:curate",
            claims=False,
        ),
        Verb(
            "overlap",
            "Find near-duplicates and rows that overlap with benchmarks.",
            "sicog.curation.overlap:OverlapConfig",
            "sicog.curation.overlap:overlap",
            may_be_empty=True,
        ),
        Verb(
            "build",
            "Build a training set from kept examples.",
            "sicog.curation.build:BuildConfig",
            "sicog.curation.build:build",
        ),
        Verb(
            "mix",
            "Mix sources (datasets, users' files) into one dataset: counts or shares of each.",
            "sicog.data.mix:MixConfig",
            "sicog.data.mix:mix",
        ),
        Verb(
            "mini-eval",
            "Evaluate a checkpoint on the mini world by its ground truth.",
            "sicog.mini.evaluate:MiniEvalConfig",
            "sicog.mini.evaluate:mini_eval",
        ),
        Verb(
            "lab-pick",
            "The picks of a scorer as rows to train on, as many as another selection keeps.",
            "sicog.lab.pick:PickConfig",
            "sicog.lab.pick:pick",
        ),
        Verb(
            "lab-perfect",
            "Rows made of a mini run's candidates, with the truth in place of what the model wrote.",
            "sicog.lab.perfect:PerfectConfig",
            "sicog.lab.perfect:perfect",
        ),
        Verb(
            "gap",
            "What there is to learn from the kept rows; may stop a round before it trains.",
            "sicog.runs.gap:GapConfig",
            "sicog.runs.gap:gap",
        ),
        Verb(
            "mini-gap",
            "The same, measured by the truth of the mini world's development split.",
            "sicog.mini.steps:MiniGapConfig",
            "sicog.mini.steps:mini_gap",
        ),
        Verb(
            "alarms",
            "Stop a round that keeps too little or repeats itself, before a model is trained on it.",
            "sicog.runs.alarms:AlarmsConfig",
            "sicog.runs.alarms:alarms",
        ),
        Verb(
            "promote",
            "Let a round's model follow the one before it, unless it is worse on the development split.",
            "sicog.runs.promote:PromoteConfig",
            "sicog.runs.promote:promote",
        ),
        Verb(
            "mini-tsv",
            "The mini world's questions as tables in VLMEvalKit's forms, with a suite.",
            "sicog.mini.tsv:MiniTsvConfig",
            "sicog.mini.tsv:mini_tsv",
        ),
        Verb(
            "eval",
            "Evaluate a checkpoint on a suite of benchmarks through VLMEvalKit.",
            "sicog.evaluation.config:EvalConfig",
            "sicog.evaluation.run:evaluate",
            claims=False,
        ),
        Verb(
            "eval-samples",
            "Accuracy against the number of samples, from what was sampled.",
            "sicog.evaluation.samples:EvalSamplesConfig",
            "sicog.evaluation.samples:eval_samples",
        ),
        Verb(
            "report",
            "One HTML page of a run.",
            "sicog.report.build:ReportConfig",
            "sicog.report.build:report",
            shows=True,
        ),
    )
}

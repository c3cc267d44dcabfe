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
from sicog.stages.storage import MANIFEST, read_json


@dataclass(frozen=True)
class Verb:
    """One kind of work: `module:name` of its config and function, and which config keys say where it writes.

    example: a command line of it, without `sicog VERB`.
    """

    name: str
    help: str
    example: str
    config: str
    function: str
    outputs: Mapping[str, str] = field(default_factory=lambda: {"out_dir": ""})  # config key -> sub-folder of the step
    shows: bool = False  # run again when done: it only prints what it made
    claims: bool = True  # each output folder with a run.json of its own; else what lies there belongs to several starts
    may_be_empty: bool = False  # keeping none of its rows is a result
    estimator: str | None = None  # `module:function` that prints what the work would take, and does none of it

    def config_type(self) -> type[Config]:
        """The config class; importing it needs no torch."""
        return load(self.config)

    def run(self, config: Config) -> Any:
        """Do the work. Raises `ValueError` when rows went in and none was kept: what comes next would have nothing."""
        result = load(self.function)(config)
        if not self.may_be_empty:
            for folder in result if isinstance(result, tuple) else (result,):
                if isinstance(folder, Path) and (folder / MANIFEST).is_file():
                    _check_kept(folder)
        return result

    def estimate(self, config: Config) -> None:
        """Print what the work would take."""
        assert self.estimator
        load(self.estimator)(config)


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


def load(name: str) -> Any:
    """What `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


_ANNOTATED = {"chain_dir": "chain", "plain_dir": "plain", "teacher_dir": "teacher"}
_TRAIN = ("sicog.training.config:TrainConfig", "sicog.training.train:train")

VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "mini-data",
            "Draw the mini world and write it in the published formats.",
            "--out data/mini --seed 1 test=100",
            "sicog.mini.steps:MiniDataStep",
            "sicog.mini.steps:mini_data",
        ),
        Verb(
            "mini-parts",
            "The mini world's vision tower and language model: unpack the shipped ones, or train them.",
            "out_dir=data/parts",
            "sicog.mini.parts_training.parts_config:MiniPartsConfig",
            "sicog.mini.parts_training.mini_parts:mini_parts",
        ),
        Verb(
            "annotate",
            "Captions (with a teacher) or annotated rows to warm-up examples: chains and plain answers.",
            "training_data_annotation/configs/reasoning.yaml input=cot.jsonl chain_dir=data/cot plain_dir=data/short",
            "sicog.annotation.revise:ReviseConfig",
            "sicog.annotation.revise:revise",
            _ANNOTATED,
            estimator="sicog.annotation.revise:print_estimate",
        ),
        Verb(
            "mini-annotate",
            "Annotate the mini world's captions with a local teacher that knows the scenes.",
            "task=captioning input=mini/warmup_captions.json image_folder=mini chain_dir=data/cod plain_dir=data/dd",
            "sicog.mini.annotate:MiniAnnotateConfig",
            "sicog.mini.annotate:mini_annotate",
            _ANNOTATED,
        ),
        Verb(
            "train",
            "Train one stage: warmup, align, pretrain, sft or dpo.",
            "training_scripts/configs/sft.yaml out_dir=runs/sft model.checkpoint=runs/next data.path=sft.json",
            *_TRAIN,
        ),
        Verb(
            "sample",
            "Sample candidates for unlabelled images or questions.",
            "task=captioning checkpoint=runs/perception input=images.json image_folder=images out_dir=runs/captions",
            "sicog.generation.sample:SampleConfig",
            "sicog.generation.sample:sample",
            estimator="sicog.generation.estimate:estimate",
        ),
        Verb(
            "import-candidates",
            "The original's files of captions, thoughts or candidates to candidate sets.",
            "input=candidates.json task=captioning out_dir=runs/imported",
            "sicog.generation.original_files:ImportCandidatesConfig",
            "sicog.generation.original_files:import_candidates",
        ),
        Verb(
            "group",
            "Group the candidates of several runs by id.",
            "input=runs/answers-0,runs/answers-1 out_dir=runs/answers",
            "sicog.generation.group:GroupConfig",
            "sicog.generation.group:group",
        ),
        Verb(
            "score",
            "Self-consistency scores of candidate sets.",
            "input=runs/captions out_dir=data/scored",
            "sicog.curation.score.score:ScoreConfig",
            "sicog.curation.score.score:score",
        ),
        Verb(
            "claims",
            "What candidates state, and how many of the others state it too.",
            "input=runs/captions out_dir=data/claims reader=sentences",
            "sicog.curation.claims.extract:ClaimsConfig",
            "sicog.curation.claims.extract:claims",
        ),
        Verb(
            "ask-claims",
            "Questions to a model about what candidates state.",
            "input=data/claims out_dir=data/asked",
            "sicog.curation.claims.verify:AskConfig",
            "sicog.curation.claims.verify:ask_claims",
            may_be_empty=True,
        ),
        Verb(
            "check-claims",
            "Count the answers that confirm what candidates state.",
            "input=data/claims asked=data/asked answers=runs/answers out_dir=data/checked",
            "sicog.curation.claims.verify:CheckConfig",
            "sicog.curation.claims.verify:check_claims",
        ),
        Verb(
            "settle",
            "Write one text of a row's claims: the best candidate pruned, or what enough candidates state.",
            "input=data/claims out_dir=data/settled support=0.5",
            "sicog.curation.claims.settle:SettleConfig",
            "sicog.curation.claims.settle:settle",
        ),
        Verb(
            "sweep",
            "Choose a threshold on the mini world's development split.",
            "input=data/scored data=data/mini out_dir=data/threshold",
            "sicog.mini.steps:MiniSweepConfig",
            "sicog.mini.steps:mini_sweep",
        ),
        Verb(
            "select",
            "Keep the best candidate of each row, or drop the row.",
            "input=data/scored threshold=0.85 out_dir=data/kept",
            "sicog.curation.select.select:SelectConfig",
            "sicog.curation.select.select:select",
        ),
        Verb(
            "thresholds",
            "What each threshold would keep of a scored folder: rows, mean score, mix of styles.",
            "input=data/scored cuts=[0.8,0.85,0.9]",
            "sicog.curation.select.threshold_table:ThresholdsConfig",
            "sicog.curation.select.threshold_table:thresholds",
            {"out": "thresholds.json"},
            claims=False,
        ),
        Verb(
            "pair",
            "Pair answers to clean images with answers to corrupted ones, for DPO.",
            "chosen=runs/answers rejected=runs/corrupted out_dir=data/pairs",
            "sicog.curation.build.pair:PairConfig",
            "sicog.curation.build.pair:pair",
        ),
        Verb(
            "curate",
            "Score and select in one go.",
            "quality_evaluation/configs/caption.yaml input=runs/captions threshold=0.85 out_dir=data/kept",
            "sicog.curation.curate:CurateConfig",
            "sicog.curation.curate:curate",
            claims=False,
        ),
        Verb(
            "overlap",
            "Find near-duplicates and rows that overlap with benchmarks.",
            "input=data/kept image_folder=images deduplicate={} out_dir=data/overlap",
            "sicog.curation.overlap.overlap:OverlapConfig",
            "sicog.curation.overlap.overlap:overlap",
            may_be_empty=True,
        ),
        Verb(
            "build",
            "Build a training set from kept examples.",
            "quality_evaluation/configs/build-213k.yaml image_folder=images out_dir=data/curated",
            "sicog.curation.build.build:BuildConfig",
            "sicog.curation.build.build:build",
        ),
        Verb(
            "mix",
            "Mix sources (datasets, users' files) into one dataset: counts or shares of each.",
            "'sources=[{path: curated.json}, {path: text.json, take: random:10%}]' out_dir=data/mixed",
            "sicog.data.mix:MixConfig",
            "sicog.data.mix:mix",
        ),
        Verb(
            "mini-eval",
            "Evaluate a checkpoint on the mini world by its ground truth.",
            "name=next checkpoint=runs/next data=data/mini out_dir=runs/eval",
            "sicog.mini.measure_model:MiniEvalConfig",
            "sicog.mini.measure_model:mini_eval",
        ),
        Verb(
            "lab-pick",
            "The picks of a scorer as rows to train on, as many as another selection keeps.",
            "input=runs/mini/scored-captions keep_rows_of=runs/mini/kept-captions scorer=scorer.py out_dir=data/picked",
            "sicog.lab.pick:PickConfig",
            "sicog.lab.pick:pick",
        ),
        Verb(
            "lab-perfect",
            "Rows made of a mini run's candidates, with the truth in place of what the model wrote.",
            "data=runs/mini/data n=1000 out_dir=data/perfect",
            "sicog.lab.perfect:PerfectConfig",
            "sicog.lab.perfect:perfect",
        ),
        Verb(
            "gap",
            "What there is to learn from the kept rows; may stop a round before it trains.",
            "labels=data/kept greedy=runs/greedy out_dir=data/gap",
            "sicog.runs.gap:GapConfig",
            "sicog.runs.gap:gap",
        ),
        Verb(
            "mini-gap",
            "The same, measured by the truth of the mini world's development split.",
            "labels=data/kept greedy=runs/greedy data=data/mini out_dir=data/gap",
            "sicog.mini.steps:MiniGapConfig",
            "sicog.mini.steps:mini_gap",
        ),
        Verb(
            "alarms",
            "Stop a round that keeps too little or repeats itself, before a model is trained on it.",
            "'watched={captions: {selected: [data/kept]}}' out_dir=data/alarms",
            "sicog.runs.alarms:AlarmsConfig",
            "sicog.runs.alarms:alarms",
        ),
        Verb(
            "promote",
            "Let a round's model follow the one before it, unless it is worse on the development split.",
            "candidate=runs/eval-next incumbent=runs/eval-base out_dir=data/promoted",
            "sicog.runs.promote:PromoteConfig",
            "sicog.runs.promote:promote",
        ),
        Verb(
            "mini-tsv",
            "The mini world's questions as tables in VLMEvalKit's forms, with a suite.",
            "data=data/mini out_dir=data/tsv",
            "sicog.mini.tsv:MiniTsvConfig",
            "sicog.mini.tsv:mini_tsv",
        ),
        Verb(
            "eval",
            "Evaluate a checkpoint on a suite of benchmarks through VLMEvalKit.",
            "runs/next --suite paper style=cot only=[POPE]",
            "sicog.evaluation.config:EvalConfig",
            "sicog.evaluation.kit.evaluate:evaluate",
            claims=False,
        ),
        Verb(
            "eval-samples",
            "Accuracy against the number of samples, from what was sampled.",
            "'curves=[{model: next, style: cot, runs: [runs/answers]}]' answers=test.tsv select=[vote] out_dir=curves",
            "sicog.evaluation.sampled.accuracy:EvalSamplesConfig",
            "sicog.evaluation.sampled.accuracy:eval_samples",
        ),
        Verb(
            "report",
            "One HTML page of a run.",
            "runs/mini",
            "sicog.report.write:ReportConfig",
            "sicog.report.write:report",
            shows=True,
        ),
    )
}

"""The verbs: what `sicog VERB CONFIG` and a recipe's step can run, each with its typed config. Nothing is imported
before it is used, so that plans, help and dry runs need no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from sicog.config import Config
from sicog.stages.storage import MANIFEST, is_finished, read_json


class Panel(StrEnum):
    """The panels of `sicog --help`, in this order: the steps of the method, then the tools beside it."""

    RUN = "Run it: all steps from one recipe"
    DEVELOP = "1 Develop: warm-up examples"
    GENERATE = "2 Generate: candidates for unlabelled images and questions"
    CURATE = "3 Curate: score candidates and keep the best"
    CONSTRUCT = "4 Construct: the training set and the next model"
    EVALUATE = "Evaluate"
    LOOK = "Look: at answers, images and data"
    CHECKPOINTS = "Checkpoints: convert, merge, resume"
    MINI = "Mini world and lab"
    STEPS = "Steps of recipes: rarely started by hand"


@dataclass(frozen=True)
class Verb:
    """One kind of work: `module:name` of its config and function, and which config keys say where it writes.

    help: one sentence of less than 70 characters, which `sicog --help` lists; after an empty line, further sentences.
    example: a command line of it, without `sicog VERB`.
    """

    name: str
    panel: Panel
    help: str
    example: str
    config: str
    function: str
    outputs: Mapping[str, str] = field(default_factory=lambda: {"out_dir": ""})  # config key -> sub-folder of the step
    shows: bool = False  # run again when done: it only prints what it made
    claims: bool = True  # each output folder with a run.json of its own; else what lies there belongs to several starts
    may_be_empty: bool = False  # keeping none of its rows is a result
    estimator: str | None = None  # `module:function` that prints what the work would take, and does none of it
    trains: bool = False  # a training: torchrun may start it in several processes, and its progress is in updates
    gate: bool = False  # it may stop the run: all later steps wait for it
    counter: str | None = None  # `module:function` that says how many rows a step gets and gives, before it runs

    def config_type(self) -> type[Config]:
        """The config class; importing it needs no torch."""
        return load(self.config)

    def run(self, config: Config) -> Any:
        """Do the work. Raises `ValueError` when rows went in and none was kept: what comes next would have nothing."""
        result = load(self.function)(config)
        if not self.may_be_empty:
            for folder in result if isinstance(result, tuple) else (result,):
                if isinstance(folder, Path) and is_finished(folder):
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
            Panel.MINI,
            "Draw the mini world: images, captions and questions.\n\nThe files have the published formats.",
            "--out data/mini --seed 1 test=100",
            "sicog.mini.steps:MiniDataStep",
            "sicog.mini.steps:mini_data",
            counter="sicog.mini.steps:count_mini_data",
        ),
        Verb(
            "mini-parts",
            Panel.MINI,
            "Make the mini world's vision tower and language model.\n\nUnpack the shipped ones, or train them.",
            "out_dir=data/parts",
            "sicog.mini.parts_training.parts_config:MiniPartsConfig",
            "sicog.mini.parts_training.mini_parts:mini_parts",
        ),
        Verb(
            "annotate",
            Panel.DEVELOP,
            "Turn captions or annotated rows into warm-up examples.\n\n"
            "Captions need a teacher. Each row becomes a chain and a plain answer.",
            "training_data_annotation/configs/reasoning.yaml input=cot.jsonl chain_dir=data/cot plain_dir=data/short",
            "sicog.annotation.revise:ReviseConfig",
            "sicog.annotation.revise:revise",
            _ANNOTATED,
            estimator="sicog.annotation.revise:print_estimate",
            counter="sicog.estimates.counts:count_annotated",
        ),
        Verb(
            "mini-annotate",
            Panel.STEPS,
            "Annotate the mini world's captions by a local teacher.\n\nThe teacher knows the scenes.",
            "task=captioning input=mini/warmup_captions.json image_folder=mini chain_dir=data/cod plain_dir=data/dd",
            "sicog.mini.annotate:MiniAnnotateConfig",
            "sicog.mini.annotate:mini_annotate",
            _ANNOTATED,
            counter="sicog.estimates.counts:count_annotated",
        ),
        Verb(
            "train",
            Panel.CONSTRUCT,
            "Train one stage: warmup, align, pretrain, sft or dpo.",
            "training_scripts/configs/sft.yaml out_dir=runs/sft model.checkpoint=runs/next data.path=sft.json",
            *_TRAIN,
            trains=True,
            counter="sicog.estimates.counts:count_trained",
        ),
        Verb(
            "sample",
            Panel.GENERATE,
            "Sample candidates for unlabelled images or questions.",
            "task=captioning checkpoint=runs/perception input=images.json image_folder=images out_dir=runs/captions",
            "sicog.generation.config:SampleConfig",
            "sicog.generation.sample:sample",
            estimator="sicog.generation.estimate:estimate",
            counter="sicog.estimates.counts:count_one_to_one",
        ),
        Verb(
            "import-candidates",
            Panel.GENERATE,
            "Turn the original's files into candidate sets.\n\nIts files hold captions, thoughts or candidates.",
            "input=candidates.json task=captioning out_dir=runs/imported",
            "sicog.generation.original_files:ImportCandidatesConfig",
            "sicog.generation.original_files:import_candidates",
        ),
        Verb(
            "group",
            Panel.GENERATE,
            "Group the candidates of several runs by id.",
            "input=runs/answers-0,runs/answers-1 out_dir=runs/answers",
            "sicog.generation.group:GroupConfig",
            "sicog.generation.group:group",
            counter="sicog.estimates.counts:count_groups",
        ),
        Verb(
            "score",
            Panel.CURATE,
            "Score candidates by their self-consistency.",
            "input=runs/captions out_dir=data/scored",
            "sicog.curation.score.score:ScoreConfig",
            "sicog.curation.score.score:score",
            counter="sicog.estimates.counts:count_groups",
        ),
        Verb(
            "sweep",
            Panel.STEPS,
            "Choose a threshold on the mini world's development split.",
            "input=data/scored data=data/mini out_dir=data/threshold",
            "sicog.mini.steps:MiniSweepConfig",
            "sicog.mini.steps:mini_sweep",
        ),
        Verb(
            "select",
            Panel.CURATE,
            "Keep the best candidate of each row, or drop the row.",
            "input=data/scored threshold=0.85 out_dir=data/kept",
            "sicog.curation.select.select:SelectConfig",
            "sicog.curation.select.select:select",
            counter="sicog.estimates.counts:count_selected",
        ),
        Verb(
            "curate",
            Panel.CURATE,
            "Score and select in one step.",
            "quality_evaluation/configs/caption.yaml input=runs/captions threshold=0.85 out_dir=data/kept",
            "sicog.curation.curate:CurateConfig",
            "sicog.curation.curate:curate",
            claims=False,
            counter="sicog.estimates.counts:count_curated",
        ),
        Verb(
            "thresholds",
            Panel.CURATE,
            "Show what each threshold would keep.\n\nFor a scored folder: rows, mean score, mix of styles.",
            "input=data/scored cuts=[0.8,0.85,0.9]",
            "sicog.curation.select.threshold_table:ThresholdsConfig",
            "sicog.curation.select.threshold_table:thresholds",
            {"out": "thresholds.json"},
            claims=False,
        ),
        Verb(
            "pair",
            Panel.CURATE,
            "Pair answers to clean and corrupted images, for DPO.",
            "chosen=runs/answers rejected=runs/corrupted out_dir=data/pairs",
            "sicog.curation.build.pair:PairConfig",
            "sicog.curation.build.pair:pair",
        ),
        Verb(
            "overlap",
            Panel.CURATE,
            "Find near-duplicates and overlap with benchmarks.",
            "input=data/kept image_folder=images deduplicate={} out_dir=data/overlap",
            "sicog.curation.overlap.overlap:OverlapConfig",
            "sicog.curation.overlap.overlap:overlap",
            may_be_empty=True,
        ),
        Verb(
            "claims",
            Panel.CURATE,
            "Find what candidates state, and how many others agree.",
            "input=runs/captions out_dir=data/claims reader=sentences",
            "sicog.curation.claims.extract:ClaimsConfig",
            "sicog.curation.claims.extract:claims",
            counter="sicog.estimates.counts:count_groups",
        ),
        Verb(
            "ask-claims",
            Panel.CURATE,
            "Write questions to a model about the claims.\n\n"
            "Their answers show whether the model confirms what candidates state.",
            "input=data/claims out_dir=data/asked",
            "sicog.curation.claims.verify:AskConfig",
            "sicog.curation.claims.verify:ask_claims",
            may_be_empty=True,
        ),
        Verb(
            "check-claims",
            Panel.CURATE,
            "Count the answers that confirm each claim.",
            "input=data/claims asked=data/asked answers=runs/answers out_dir=data/checked",
            "sicog.curation.claims.verify:CheckConfig",
            "sicog.curation.claims.verify:check_claims",
        ),
        Verb(
            "settle",
            Panel.CURATE,
            "Write one text from the claims of a row.\n\n"
            "Either the best candidate is pruned, or the text states what enough candidates state.",
            "input=data/claims out_dir=data/settled support=0.5",
            "sicog.curation.claims.settle:SettleConfig",
            "sicog.curation.claims.settle:settle",
            counter="sicog.estimates.counts:count_one_to_one",
        ),
        Verb(
            "build",
            Panel.CONSTRUCT,
            "Build a training set from kept examples.",
            "quality_evaluation/configs/build-213k.yaml image_folder=images out_dir=data/curated",
            "sicog.curation.build.build:BuildConfig",
            "sicog.curation.build.build:build",
            counter="sicog.estimates.counts:count_built",
        ),
        Verb(
            "mix",
            Panel.CONSTRUCT,
            "Mix datasets and users' files into one dataset.\n\nEach source gives a count or a share of its rows.",
            "'sources=[{path: curated.json}, {path: text.json, take: random:10%}]' out_dir=data/mixed",
            "sicog.data.mix:MixConfig",
            "sicog.data.mix:mix",
            counter="sicog.estimates.counts:count_mixed",
        ),
        Verb(
            "mini-eval",
            Panel.STEPS,
            "Evaluate a checkpoint by the mini world's ground truth.",
            "name=next checkpoint=runs/next data=data/mini out_dir=runs/eval",
            "sicog.mini.measure_model:MiniEvalConfig",
            "sicog.mini.measure_model:mini_eval",
        ),
        Verb(
            "lab-pick",
            Panel.STEPS,
            "Write the rows that a scorer picks as training rows.\n\nAs many rows as another selection keeps.",
            "input=runs/mini/scored-captions keep_rows_of=runs/mini/kept-captions scorer=scorer.py out_dir=data/picked",
            "sicog.lab.pick:PickConfig",
            "sicog.lab.pick:pick",
        ),
        Verb(
            "lab-perfect",
            Panel.STEPS,
            "Write training rows with the truth as their text.\n\nThe rows are those of a mini run's candidates.",
            "data=runs/mini/data n=1000 out_dir=data/perfect",
            "sicog.lab.perfect:PerfectConfig",
            "sicog.lab.perfect:perfect",
        ),
        Verb(
            "gap",
            Panel.STEPS,
            "Measure what the model can still learn from kept rows.\n\nMay stop a round before it trains.",
            "labels=data/kept greedy=runs/greedy out_dir=data/gap",
            "sicog.runs.gap:GapConfig",
            "sicog.runs.gap:gap",
            gate=True,
        ),
        Verb(
            "mini-gap",
            Panel.STEPS,
            "Measure the same gap by the mini world's ground truth.\n\nIt uses the development split.",
            "labels=data/kept greedy=runs/greedy data=data/mini out_dir=data/gap",
            "sicog.mini.steps:MiniGapConfig",
            "sicog.mini.steps:mini_gap",
            gate=True,
        ),
        Verb(
            "alarms",
            Panel.STEPS,
            "Stop a round that keeps too little or repeats itself.\n\n"
            "It stops before a model is trained on these rows.",
            "'watched={captions: {selected: [data/kept]}}' out_dir=data/alarms",
            "sicog.runs.alarms:AlarmsConfig",
            "sicog.runs.alarms:alarms",
            gate=True,
        ),
        Verb(
            "promote",
            Panel.STEPS,
            "Promote a round's model, unless it is worse than before.\n\nBoth are measured on the development split.",
            "candidate=runs/eval-next incumbent=runs/eval-base out_dir=data/promoted",
            "sicog.runs.promote:PromoteConfig",
            "sicog.runs.promote:promote",
            gate=True,
        ),
        Verb(
            "mini-tsv",
            Panel.STEPS,
            "Write the mini world's questions as VLMEvalKit tables.\n\nA suite of them is written too.",
            "data=data/mini out_dir=data/tsv",
            "sicog.mini.tsv:MiniTsvConfig",
            "sicog.mini.tsv:mini_tsv",
        ),
        Verb(
            "eval",
            Panel.EVALUATE,
            "Evaluate a checkpoint on benchmarks by VLMEvalKit.",
            "runs/next --suite paper style=cot only=[POPE]",
            "sicog.evaluation.config:EvalConfig",
            "sicog.evaluation.kit.evaluate:evaluate",
            claims=False,
        ),
        Verb(
            "eval-samples",
            Panel.STEPS,
            "Measure accuracy against the number of samples.\n\nIt reads answers that were sampled before.",
            "'curves=[{model: next, style: cot, runs: [runs/answers]}]' answers=test.tsv select=[vote] out_dir=curves",
            "sicog.evaluation.sampled.accuracy:EvalSamplesConfig",
            "sicog.evaluation.sampled.accuracy:eval_samples",
        ),
        Verb(
            "report",
            Panel.RUN,
            "Write one HTML page of a run.",
            "runs/mini",
            "sicog.report.write:ReportConfig",
            "sicog.report.write:report",
            shows=True,
        ),
    )
}

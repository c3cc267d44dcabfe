"""Write the lab's arms (`recipes/lab/arms.yaml`) as an ordinary recipe, which resumes like any recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field, field_validator, model_validator

from sicog.config import Config, apply_overrides, load_with_extends, merge, validate
from sicog.config.paths import expand_home
from sicog.runs.config import InputSpec
from sicog.runs.recipe import StepSpec, texts_of
from sicog.stages.storage import write_bytes

RECIPE = "lab-recipe.yaml"
RUN = "run"  # name of the input with the mini run
SEED = "${seed}"
SCORER = "${scorer}"
Values = dict[str, Any]


class Arm(Config):
    """An experiment that changes one thing."""

    says: str
    """Description of the arm, for the table."""
    rows: dict[str, str | StepSpec] | None = Field(default=None, min_length=1)
    """Rows of pre-training, by name: folders, files, or steps that make them. null: no pre-training."""
    weight: float | None = Field(default=None, gt=0)
    """Multiple of these rows, sampled by the seed."""
    train: Values = {}
    """Config values of pre-training; they override the lab's."""
    preferences: StepSpec | None = None
    """The step that makes preference pairs; then DPO runs."""

    @model_validator(mode="after")
    def _check_training(self) -> Arm:
        if self.rows and self.preferences:
            raise ValueError("an arm has both rows (pre-training) and preferences (DPO). Set only one")
        if (self.weight or self.train) and not self.rows:
            raise ValueError("weight and train need rows for pre-training. Set rows, or remove weight and train")
        return self


class Updates(Config):
    """Number of updates of each training, the same for every arm, so that all arms cost the same."""

    pretrain: int | None = Field(default=None, gt=0)
    """Updates of pre-training; null: one pass over the rows."""
    sft: int | None = Field(default=None, gt=0)
    """Updates of instruction tuning; null: one pass over the rows."""


class LabConfig(Config):
    """The arms and their shared settings; see `recipes/lab/arms.yaml`."""

    volatile: ClassVar[frozenset[str]] = frozenset()
    inputs: dict[str, InputSpec]
    """Input files and folders, by name."""
    run_dir: Path
    """Output folder."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Training seeds of every arm."""
    updates: Updates
    """Updates of each training."""
    compare_with: str
    """The arm to compare the others with."""
    defaults: Path
    """A YAML with config values of all trainings."""
    parts: Values
    """The model before pre-training, as in `train`."""
    image_folder: str
    """Folder of the images of the rows."""
    labelled: str
    """Labelled rows for instruction tuning."""
    sft: Values = {}
    """More config values of instruction tuning."""
    dpo: Values = {}
    """More config values of DPO."""
    evaluate: Values = {}
    """Config values of `mini-eval` besides checkpoint and data, such as the split."""
    arms: dict[str, Arm] = Field(min_length=1)
    """The arms, by name."""
    scorer: dict[str, StepSpec] = {}
    """Rows of an arm that tests a scorer; `${scorer}` is the scorer's file."""
    shared: dict[str, StepSpec] = {}
    """Steps that arms use."""
    curves: dict[str, tuple[str, ...]] = {}
    """Curves of the plot: for each name, arms of one kind, from few rows to many."""
    launcher: dict[str, Any] = {}
    """How steps are started, as in a recipe."""

    @field_validator("arms")
    @classmethod
    def _check_arm_names(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        for name in arms:
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
                raise ValueError(
                    f"arm {name!r}: the name is not valid. Use only lower-case letters, digits and hyphens"
                )
        return arms

    @model_validator(mode="after")
    def _check_run_input(self) -> LabConfig:
        if RUN not in self.inputs:
            raise ValueError(f"inputs.{RUN} is missing. Set it to the finished mini run with the candidates")
        return self

    @model_validator(mode="after")
    def _check_compare_with(self) -> LabConfig:
        if self.compare_with not in self.arms:
            raise ValueError(f"compare_with: {self.compare_with!r} is not an arm. Use one of: {', '.join(self.arms)}")
        if unknown := [arm for names in self.curves.values() for arm in names if arm not in self.arms]:
            raise ValueError(f"curves: {unknown[0]!r} is not an arm. Use one of: {', '.join(self.arms)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is given twice in seeds. Remove one")
        return self

    def only(self, names: Sequence[str]) -> LabConfig:
        """Return the lab with only these arms and the arm to compare with. Raises `ValueError` for unknown names."""
        if unknown := [name for name in names if name not in self.arms]:
            raise ValueError(f"unknown arm {unknown[0]!r}. Use one of: {', '.join(self.arms)}")
        kept = {name: arm for name, arm in self.arms.items() if name in (self.compare_with, *names)}
        curves = {curve: tuple(name for name in arms if name in kept) for curve, arms in self.curves.items()}
        return self.model_copy(update={"arms": kept, "curves": curves})

    def with_scorer(self, file: Path) -> LabConfig:
        """Return the lab with two arms: the arm to compare with, and an arm for the scorer, named like its file.

        Raises `ValueError` when an arm has this name, or when the lab has no `scorer`.
        """
        name = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")
        if not name or name in self.arms:
            raise ValueError(
                f"{file}: {name!r} is not a valid name of an arm, or an arm has this name. Rename the file"
            )
        if not self.scorer:
            raise ValueError("`scorer` is missing in the lab's file. Add it to define the rows of a scorer")
        rows = {
            key: _replace_name(step.model_dump(mode="json"), SCORER, str(file)) for key, step in self.scorer.items()
        }
        added = Arm(says=f"the picks of {file.name}", rows={k: StepSpec.model_validate(v) for k, v in rows.items()})
        return self.model_copy(update={"arms": {self.compare_with: self.arms[self.compare_with], name: added}})


def load_lab(path: Path, overrides: Sequence[str] = ()) -> LabConfig:
    """Read the lab's file and the file that it `extends`. `defaults` of steps and trainings are relative to it."""
    return validate(
        LabConfig, apply_overrides(load_with_extends(path, place=_with_relative_defaults), overrides), str(path)
    )


def _with_relative_defaults(value: Any, folder: Path) -> Any:
    """Return the value with the path of every `defaults` relative to the current folder."""
    if not isinstance(value, Mapping):
        return value
    of = {key: _with_relative_defaults(item, folder) for key, item in value.items()}
    if isinstance(of.get("defaults"), str):
        of["defaults"] = str(folder / expand_home(Path(of["defaults"])))
    return of


def write_recipe(lab: LabConfig) -> Path:
    """Write the arms as a recipe into the run's folder; returns its path."""
    recipe = {
        "run_dir": str(lab.run_dir),
        "launcher": lab.launcher,
        "inputs": {name: given.model_dump(mode="json") for name, given in lab.inputs.items()},
        "steps": dict(steps(lab)),
    }
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=1000)
    path = lab.run_dir / RECIPE
    write_bytes(path, b"# Written by sicog lab; change its arms instead.\n" + text.encode())
    return path


def steps(lab: LabConfig) -> Iterator[tuple[str, Values]]:
    """Yield name and values of every step: arm after arm, seed after seed, a shared step before its first use."""
    given: set[str] = set()
    for name, arm in lab.arms.items():
        for seed in lab.seeds:
            for step, values in _arm_steps(lab, name, arm, seed):
                for each, of_it in (*_needed_steps(lab, values), (step, values)):
                    if each not in given:
                        given.add(each)
                        yield each, of_it


def eval_step(arm: str, seed: int) -> str:
    """Return the step that evaluates an arm's model of one seed."""
    return f"{arm}-{seed}-eval"


def rows_step(arm: str, seed: int) -> str:
    """Return the step with the pre-training rows of an arm."""
    return f"{arm}-{seed}-rows"


def _arm_steps(lab: LabConfig, name: str, arm: Arm, seed: int) -> Iterator[tuple[str, Values]]:
    data = {"image_folder": lab.image_folder}
    labelled, begin, last = {**data, "path": lab.labelled}, dict(lab.parts), f"{name}-{seed}-sft"
    if arm.rows:
        sources = []
        for key, source in arm.rows.items():
            if isinstance(source, str):
                path = source
            else:
                made, values = _step_of_seed(f"{name}-{key}", source, seed)
                yield made, values
                path = f"${{{made}}}"
            sources.append({"name": key, "path": path} | ({"weight": arm.weight} if arm.weight else {}))
        rows = rows_step(name, seed)
        yield rows, {"run": "build", "config": {"sources": sources, "seed": seed, "llava_json": False}}
        values = merge({"stage": "pretrain", "model": begin, "data": {**data, "path": f"${{{rows}}}"}}, arm.train)
        yield f"{name}-{seed}-pretrain", _train(lab, values, lab.updates.pretrain, seed)
        begin = {"checkpoint": f"${{{name}-{seed}-pretrain}}"}
    values = {"stage": "sft", "model": begin, "data": labelled, **lab.sft}
    yield last, _train(lab, values, lab.updates.sft, seed)
    if arm.preferences:
        pairs, values = _step_of_seed(f"{name}-pairs", arm.preferences, seed)
        yield pairs, values
        values = {"stage": "dpo", "objective": "dpo", "model": {"checkpoint": f"${{{last}}}"}}
        values |= {"data": {**data, "path": f"${{{pairs}}}"}, **lab.dpo}
        last = f"{name}-{seed}-dpo"
        yield last, _train(lab, values, lab.updates.pretrain, seed)
    values = {"name": name, "checkpoint": f"${{{last}}}", "data": lab.image_folder, **lab.evaluate}
    yield eval_step(name, seed), {"run": "mini-eval", "config": values}


def _train(lab: LabConfig, values: Values, updates: int | None, seed: int) -> Values:
    own = {**values, "max_steps": updates, "seed": seed, "tensorboard": False}
    return {"run": "train", "config": merge(load_with_extends(lab.defaults), own)}


def _step_of_seed(name: str, step: StepSpec, seed: int) -> tuple[str, Values]:
    """Return a step with its name: with the seed in the name if it depends on the seed, else shared by all seeds."""
    values = _with_defaults(step)
    if SEED not in "".join(texts_of(values)):
        return name, values
    return f"{name}-{seed}", _replace_name(values, SEED, seed)


def _with_defaults(step: StepSpec) -> Values:
    """Return the step with its defaults written out, because the recipe is in another folder."""
    return {"run": step.run, "config": merge(load_with_extends(step.defaults) if step.defaults else {}, step.config)}


def _replace_name(value: Any, name: str, by: Any) -> Any:
    """Return the value with `name` replaced: by the object if the text is only the name, else by its text."""
    if isinstance(value, Mapping):
        return {key: _replace_name(item, name, by) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_name(item, name, by) for item in value]
    if value == name:
        return by
    return value.replace(name, str(by)) if isinstance(value, str) else value


def _needed_steps(lab: LabConfig, values: Values) -> Iterator[tuple[str, Values]]:
    """Yield the shared steps that a step uses, each after its own dependencies."""
    for text in texts_of(values):
        for name in re.findall(r"\$\{([a-z0-9-]+)\}", text):
            if name in lab.shared:
                shared = _with_defaults(lab.shared[name])
                yield from _needed_steps(lab, shared)
                yield name, shared

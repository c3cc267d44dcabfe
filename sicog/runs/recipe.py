"""A recipe: the steps of a whole run in one YAML, read into typed configs; keys detect steps to run again.

    extends: common.yaml              # base recipe, overridden key by key; null removes a step
    run_dir: runs/mini
    inputs:
      rows: {path: data/rows.json, rows: 558128, get: its source}
    steps:
      data:  {run: mini-data, config: {seed: 1}}
      align: {run: train, defaults: configs/align.yaml, config: {data: {path: "${data}/align.json"}}}
    rounds: 2
    each_round: {...}                 # steps of every round; `then` has the steps after all rounds
    then: {...}

`${name}` is the folder of an earlier step and makes this step depend on it; see `sicog.runs.rounds` for all references.
`defaults` is a YAML whose values `config` overrides. A step's key is the digest of its verb, its resolved config, the
keys of the steps it depends on, and the content of outside files. Equal keys mean equal outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from sicog.config import (
    Config,
    apply_overrides,
    load_with_extends,
    merge,
    paths_of,
    report_old_names,
    resolve_key_names,
    validate,
)
from sicog.config.paths import expand_home
from sicog.config.validation import validation_message
from sicog.data.rows.cache import cache_folder
from sicog.data.rows.table import digest_source_file
from sicog.estimates.arithmetic.assumed import Assumed
from sicog.model.hub import find_model
from sicog.runs.config import InputSpec, JobConfig, LauncherConfig
from sicog.runs.rounds import Scope, step_name
from sicog.runs.verbs import VERBS, Verb
from sicog.stages.provenance import digest_file, digest_path, digest_value
from sicog.stages.storage import is_finished
from sicog.version import __version__

_STEP = re.compile(r"\$\{(?:all\.)?([a-z0-9-]+)[}/]")
_REMEMBERED = 1 << 26  # bytes; digests of larger files are cached by time and size


class StepSpec(Config):
    """A step as written in the recipe."""

    run: str
    """The verb."""
    defaults: Path | None = None
    """A YAML whose values `config` overrides; its path is relative to the recipe."""
    config: dict[str, Any] = {}
    """The verb's keys; see `sicog VERB --help`."""
    job: dict[str, Any] = {}
    """SLURM resources of this step; they override the launcher's."""
    after: tuple[str, ...] = ()
    """Steps to wait for besides those in its config, such as a gate of a recipe that extends this one."""


class RecipeSpec(Config):
    """A recipe as written."""

    run_dir: Path
    """Output folder, with a folder for each step."""
    inputs: dict[str, InputSpec] = {}
    """Inputs from outside, by name."""
    steps: dict[str, StepSpec | None] = Field(min_length=1)
    """The steps, in order; null removes a step of the base recipe."""
    rounds: int | None = Field(default=None, ge=1)
    """Number of rounds of `each_round`."""
    each_round: dict[str, StepSpec | None] = {}
    """Steps of every round."""
    then: dict[str, StepSpec | None] = {}
    """Steps after all rounds."""
    launcher: LauncherConfig = LauncherConfig()
    """How to start steps; a single word is its `on`."""
    assume: Assumed = Assumed()

    @field_validator("launcher", mode="before")
    @classmethod
    def _launcher_from_name(cls, value: Any) -> Any:
        return {"on": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_rounds(self) -> RecipeSpec:
        if (self.rounds is None) != (not self.each_round) or (self.then and not self.rounds):
            raise ValueError("rounds and each_round must be set together, and then needs both. Set or remove them")
        return self


@dataclass(frozen=True)
class Step:
    """A step that is ready to run, with a complete typed config and its key.

    depends_on: the steps whose output it reads. after: other steps that must be done before it.
    """

    name: str
    verb: Verb
    config: Config
    run_dir: Path
    depends_on: tuple[str, ...]
    after: tuple[str, ...]
    key: str
    job: JobConfig

    @property
    def folder(self) -> Path:
        """Return the output folder."""
        return self.run_dir / self.name


@dataclass(frozen=True)
class Recipe:
    """A recipe that is ready to run; steps in order."""

    path: Path
    run_dir: Path
    inputs: Mapping[str, InputSpec]
    steps: Sequence[Step]
    launcher: LauncherConfig
    assume: Assumed

    def until(self, name: str | None) -> Sequence[Step]:
        """Return the steps up to this one. Raises `ValueError` for an unknown name."""
        names = [step.name for step in self.steps]
        if name is not None and name not in names:
            raise ValueError(f"{self.path} has no step {name!r}. Use one of: {', '.join(names)}")
        return self.steps if name is None else self.steps[: names.index(name) + 1]

    def missing(self, steps: Sequence[Step]) -> list[str]:
        """Return a sentence for each missing input from outside that these steps read."""
        said: dict[str, str] = {}
        for step in steps:
            for path in outside_paths(step):
                if str(path) not in said and find_model(path) is None:
                    said[str(path)] = f"step {step.name!r} reads {path}, which does not exist. {self._advice(path)}"
        for given in self.inputs.values():  # inputs that are not paths, such as an encoder
            named = any(given.path in texts_of(step.config.model_dump()) for step in steps)
            if given.path not in said and named and find_model(Path(given.path)) is None and ":" not in given.path:
                said[given.path] = f"{given.path} does not exist. {self._advice(Path(given.path))}"
        return list(said.values())

    def _advice(self, path: Path) -> str:
        for name, given in self.inputs.items():
            if path == Path(given.path) or Path(given.path) in path.parents:
                get = f" ({given.get})" if given.get else ""
                return f"It is the input {name!r}{get}. Get it, or set inputs.{name}.path=..."
        return "Correct the path in the recipe"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and resolve every step. Raises `ValueError` with step and key of a mistake."""
    path = Path(path)
    spec = validate(RecipeSpec, apply_overrides(load_with_extends(path, place=_resolve_paths), overrides), str(path))
    steps: dict[str, Step] = {}
    for written in _written_steps(spec):
        steps[written.name] = _resolve(written, spec, steps, path)
    return Recipe(path, spec.run_dir, spec.inputs, list(steps.values()), spec.launcher, spec.assume)


def texts_of(value: Any) -> Iterator[str]:
    """Yield all texts in nested mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)


def outside_paths(step: Step) -> list[Path]:
    """Return the paths that a step reads and no step of the run writes."""
    return [path for path in paths_of(step.config) if step.run_dir not in (path, *path.parents)]


@dataclass(frozen=True)
class _WrittenStep:
    """A written step with its name, its round (0: before all rounds), and whether it is after all rounds."""

    name: str
    spec: StepSpec
    number: int = 0
    after_all: bool = False


def _written_steps(spec: RecipeSpec) -> Iterator[_WrittenStep]:
    for name, step in _sort_steps(spec.steps):
        yield _WrittenStep(name, step)
    for number in range(1, (spec.rounds or 0) + 1):
        for name, step in _sort_steps(spec.each_round):
            yield _WrittenStep(step_name(number, name), step, number)
    for name, step in _sort_steps(spec.then):
        yield _WrittenStep(name, step, spec.rounds or 0, after_all=True)


def _sort_steps(steps: Mapping[str, StepSpec | None]) -> list[tuple[str, StepSpec]]:
    """Return the steps as written, each after the steps that it names.

    A recipe that extends another can only add its own steps after all steps of the base.
    """
    found: dict[str, StepSpec] = {}

    def put(name: str, waiting: tuple[str, ...]) -> None:
        step = steps[name]
        if step is None or name in found or name in waiting:  # the first step of a cycle is refused when it is resolved
            return
        named = (other for text in texts_of(step.config) for other in _STEP.findall(text))
        for other in (*named, *step.after):
            if other in steps:
                put(other, (*waiting, name))
        found[name] = step

    for name in steps:
        put(name, ())
    return list(found.items())


def _resolve(written: _WrittenStep, spec: RecipeSpec, earlier: Mapping[str, Step], recipe: Path) -> Step:
    name, step, run_dir = written.name, written.spec, spec.run_dir
    where = f"{recipe}, step {name!r}"
    if not re.fullmatch(r"(round-\d+/)?[a-z0-9][a-z0-9-]*", name):
        raise ValueError(f"{where}: the name is not valid. Use only lower-case letters, digits and hyphens")
    if name in earlier:
        raise ValueError(f"{where}: two steps have this name. Rename one")
    if step.run not in VERBS:
        raise ValueError(f"{where}: unknown verb {step.run!r}. Use one of: {', '.join(VERBS)}")
    verb, folder = VERBS[step.run], run_dir / name
    values = merge(load_with_extends(step.defaults) if step.defaults else {}, step.config)
    of_round = [n for n, s in spec.each_round.items() if s is not None]
    folders = {n: s.folder for n, s in earlier.items()}
    scope = Scope(where, folders, spec.inputs, of_round, written.number, written.after_all)
    values = scope.resolve_value(values)
    report_old_names(verb.config_type(), values)
    values = dict(resolve_key_names(verb.config_type().other_names(), values))
    if given := sorted(values.keys() & verb.outputs.keys()):
        raise ValueError(
            f"{where}: {given[0]} cannot be set in a recipe, because a step writes to the run's folder. Remove it"
        )
    values |= {key: folder / sub if sub else folder for key, sub in verb.outputs.items()}
    job = _job(step, spec.launcher, where)
    config = validate(verb.config_type(), values, where)
    if spec.launcher.on == "slurm" and config.takes_array and "launch" not in values:
        config = validate(verb.config_type(), {**values, "launch": _array(job, spec.launcher)}, where)
    depends_on = tuple(s for s in earlier if s in scope.used)
    gates = [s.name for s in earlier.values() if s.verb.gate]  # each step waits for the one before it
    own = [_earlier_step(other, written, earlier, where) for other in step.after]
    after = tuple(dict.fromkeys(other for other in (*own, *gates[-1:]) if other not in depends_on))
    return Step(name, verb, config, run_dir, depends_on, after, _key(verb, config, run_dir, depends_on, earlier), job)


def _earlier_step(name: str, written: _WrittenStep, earlier: Mapping[str, Step], where: str) -> str:
    """Return the step with this name, of the same round if it belongs to a round."""
    of_round = step_name(written.number, name) if written.number and not written.after_all else name
    found = next((known for known in (of_round, name) if known in earlier), None)
    if found is None:
        raise ValueError(f"{where}: after: {name!r} is not an earlier step. Use one of: {', '.join(earlier)}")
    return found


def _job(step: StepSpec, launcher: LauncherConfig, where: str) -> JobConfig:
    try:
        return launcher.job(trains=VERBS[step.run].trains, own=step.job)
    except ValidationError as error:
        raise ValueError(f"{where}: job: {validation_message(error, JobConfig)}") from None


def _array(job: JobConfig, launcher: LauncherConfig) -> dict[str, Any]:
    """The `launch` of a step whose job submits an array, unless the recipe sets its own."""
    asked: dict[str, Any] = {"gpus": job.gpus or 1, "cpus": job.cpus, "memory_gb": job.memory_gb}
    asked |= {"time": job.time, "partition": job.partition}
    return {"on": "slurm", "wait": True, "tasks": launcher.array_tasks, **asked, "options": job.options}


def _key(verb: Verb, config: Config, run_dir: Path, depends_on: Sequence[str], earlier: Mapping[str, Step]) -> str:
    outside: dict[str, str] = {}
    for path in paths_of(config):
        found = None if run_dir in (path, *path.parents) else find_model(path)
        if found is not None and _counts_by_content(found):
            outside[str(path)] = digest_path(found, _digest)
    return digest_value(
        {
            "sicog": __version__,
            "verb": verb.name,
            "config": config.identity(),
            "paths": sorted(str(p.relative_to(run_dir)) for p in paths_of(config) if run_dir in p.parents),
            "inputs": [earlier[d].key for d in depends_on],
            "outside": outside,
        }
    )


def _digest(file: Path) -> str:
    """Return a file's digest; digests of large files, such as weights, are cached, because a recipe is read often."""
    return digest_source_file(file, cache_folder(None)) if file.stat().st_size >= _REMEMBERED else digest_file(file)


def _resolve_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a recipe with its file names, relative to the recipe, resolved from the current folder."""
    for part in ("steps", "each_round", "then"):
        steps = values.get(part)
        for step in steps.values() if isinstance(steps, dict) else ():
            if isinstance(step, dict) and isinstance(defaults := step.get("defaults"), str):
                step["defaults"] = str(folder / expand_home(Path(defaults)))
    assume = values.get("assume")
    if isinstance(assume, dict) and isinstance(model := assume.get("model"), str):
        assume["model"] = str(folder / expand_home(Path(model)))
    return values


def _counts_by_content(path: Path) -> bool:
    """Return whether a path counts by content: files and datasets do, image folders are too large to read."""
    return path.is_file() or is_finished(path) or (path / "config.json").is_file()

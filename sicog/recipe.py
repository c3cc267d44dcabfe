"""`sicog run RECIPE`: the steps of a whole run in order; what is done and unchanged is skipped, what changed is redone.

A recipe is one YAML:

    run_dir: runs/mini
    steps:
      data:  {run: mini-data, config: {seed: 1}}
      align: {run: train, defaults: configs/align.yaml, config: {data: {path: "${data}/align.json"}}}

`${name}` stands for the folder of an earlier step and makes this step depend on it. `defaults` is a YAML whose values
`config` overrides; `extends` at the top names a recipe that this one changes. A step's key is the digest of its verb,
its resolved config and the keys of the steps it depends on (and the content of outside files): same key, same output.
"""

from __future__ import annotations

import glob
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field
from rich.console import Console
from rich.table import Table

from sicog import __version__
from sicog.config import Config, apply_overrides, load_extended, load_yaml, merge, validate
from sicog.provenance import digest_path, digest_value
from sicog.storage import MANIFEST, locked, read_json, write_json
from sicog.verbs import VERBS, Verb

_REFERENCE = re.compile(r"\$\{([^}]+)\}")
_STATE, PLAN = ".steps", "recipe.json"


class StepSpec(Config):
    """A step as the recipe writes it."""

    run: str
    defaults: Path | None = None
    config: dict[str, Any] = {}


class RecipeSpec(Config):
    """A recipe as it is written."""

    run_dir: Path
    steps: dict[str, StepSpec] = Field(min_length=1)


@dataclass(frozen=True)
class Step:
    """A step that is ready to run: its config is complete and typed, its key known."""

    name: str
    verb: Verb
    config: Config
    folder: Path
    depends_on: tuple[str, ...]
    key: str


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> list[Step]:
    """Read a recipe and resolve every step. Raises `ValueError` naming the step and the key of any mistake."""
    spec = validate(RecipeSpec, apply_overrides(_extended(path), overrides), str(path))
    steps: dict[str, Step] = {}
    for name, step in spec.steps.items():
        steps[name] = _resolve(name, step, spec.run_dir, steps, path)
    return list(steps.values())


def run(path: Path, overrides: Sequence[str] = (), *, until: str | None = None, dry_run: bool = False) -> Path:
    """Run a recipe to its end (or up to the step `until`); returns the run's folder.

    With `dry_run` only the plan and each resolved config are printed.
    """
    console = Console(stderr=not dry_run)
    steps = load_recipe(path, overrides)
    if until is not None and until not in {s.name for s in steps}:
        raise ValueError(f"{path} has no step {until!r}; its steps: {', '.join(s.name for s in steps)}")
    plan = [_planned(step) for step in steps]  # of the whole run, so that a page can be made of a part of it
    if until is not None:
        steps = steps[: [s.name for s in steps].index(until) + 1]
    run_dir = steps[0].folder.parent
    if dry_run:
        _print_plan(steps, console)
        return run_dir
    _check_inputs(steps, run_dir)
    with locked(run_dir / _STATE / "lock", run_dir):
        if not (run_dir / PLAN).is_file() or read_plan(run_dir) != plan:
            write_json(run_dir / PLAN, plan)
        for number, step in enumerate(steps, 1):
            _run_step(step, f"[{number}/{len(steps)}] {step.name}", console)
    _print_times(steps, console)
    return run_dir


def read_plan(run_dir: Path) -> list[dict[str, Any]]:
    """The steps of the newest run in this folder: name, verb, config. Raises `ValueError` when there was none."""
    return read_json(run_dir / PLAN)


def _check_inputs(steps: Sequence[Step], run_dir: Path) -> None:
    """Files that the steps read from outside must exist now, not after the hours that come before them."""
    for step in steps:
        for path in _paths(step.config):
            if run_dir not in (path, *path.parents) and not path.exists():
                raise ValueError(f"step {step.name!r} reads {path}, which does not exist; mend the recipe's path")


def _planned(step: Step) -> dict[str, Any]:
    return {"name": step.name, "verb": step.verb.name, "config": step.config.model_dump(mode="json")}


def _run_step(step: Step, title: str, console: Console) -> None:
    if _is_done(step):
        console.print(f"{title}: done", style="dim", highlight=False)
        if step.verb.shows:
            step.verb.run(step.config)
        return
    state = _state(step)
    if state and state["key"] != step.key and step.folder.exists():
        aside = step.folder.parent / ".replaced" / f"{step.name}-{state['key'][:8]}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(parents=True, exist_ok=True)
        step.folder.rename(aside)
        console.print(f"{title}: its config or inputs changed; the old output is now {aside}", highlight=False)
    spent = state["seconds"] if state and state["key"] == step.key else 0.0
    console.print(f"{title}: {step.verb.name}", style="bold", highlight=False)
    _write_state(step, "started", spent)
    start = time.monotonic()
    try:
        step.verb.run(step.config)
    except BaseException:
        _write_state(step, "started", spent + time.monotonic() - start)
        raise
    _write_state(step, "done", spent + time.monotonic() - start)


def _resolve(name: str, spec: StepSpec, run_dir: Path, earlier: Mapping[str, Step], recipe: Path) -> Step:
    where = f"{recipe}, step {name!r}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ValueError(f"{where}: a step's name is made of lower-case letters, digits and hyphens")
    if spec.run not in VERBS:
        raise ValueError(f"{where}: unknown verb {spec.run!r}; known: {', '.join(VERBS)}")
    verb, folder = VERBS[spec.run], run_dir / name
    values = merge(load_extended(spec.defaults) if spec.defaults else {}, spec.config)
    used: set[str] = set()
    values = _substitute(values, {n: s.folder for n, s in earlier.items()}, used, where)
    if given := sorted(values.keys() & verb.outputs.keys()):
        raise ValueError(f"{where}: {given[0]} is not for the recipe to say: a step writes to the run's folder")
    values |= {key: folder / sub if sub else folder for key, sub in verb.outputs.items()}
    config = validate(verb.config_type(), values, where)
    depends_on = tuple(s for s in earlier if s in used)
    outside = {str(p): digest_path(p) for p in _paths(config) if run_dir not in (p, *p.parents) and _is_small(p)}
    key = digest_value(
        {
            "sicog": __version__,
            "verb": verb.name,
            "config": config.identity(),
            "paths": sorted(str(p.relative_to(run_dir)) for p in _paths(config) if run_dir in p.parents),
            "inputs": [earlier[d].key for d in depends_on],
            "outside": outside,
        }
    )
    return Step(name, verb, config, folder, depends_on, key)


def _substitute(value: Any, folders: Mapping[str, Path], used: set[str], where: str) -> Any:
    def folder(match: re.Match[str]) -> str:
        if (name := match.group(1)) not in folders:
            raise ValueError(f"{where}: ${{{name}}} is no earlier step; earlier: {', '.join(folders) or 'none'}")
        used.add(name)
        return str(folders[name])

    if isinstance(value, dict):
        return {k: _substitute(v, folders, used, where) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, folders, used, where) for v in value]
    return _REFERENCE.sub(folder, value) if isinstance(value, str) else value


def _extended(path: Path) -> dict[str, Any]:
    """The recipe's values over those of the recipe it extends; a `defaults` file lies beside the recipe naming it."""
    values = load_yaml(path)
    steps = values.get("steps")
    for step in steps.values() if isinstance(steps, dict) else ():
        if isinstance(step, dict) and isinstance(defaults := step.get("defaults"), str):
            step["defaults"] = str(path.parent / defaults)
    base = values.pop("extends", None)
    return merge(_extended(path.parent / base), values) if base else values


def _paths(value: Any) -> list[Path]:
    if isinstance(value, Path):
        return [value] if value.exists() else [Path(p) for p in sorted(glob.glob(str(value)))] or [value]  # noqa: PTH207
    if isinstance(value, Config):
        fields = [name for name in type(value).model_fields if name not in value.volatile]
        return [p for name in fields for p in _paths(getattr(value, name))]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [p for v in value for p in _paths(v)] if isinstance(value, (list, tuple)) else []


def _is_small(path: Path) -> bool:
    """Outside files count by content; of outside folders only datasets do, for an image folder is too large to read."""
    return path.is_file() or (path / MANIFEST).is_file() or (path / "config.json").is_file()


def _state_path(step: Step) -> Path:
    return step.folder.parent / _STATE / f"{step.name}.json"


def _state(step: Step) -> dict[str, Any] | None:
    return read_json(_state_path(step)) if _state_path(step).is_file() else None


def _write_state(step: Step, state: str, seconds: float) -> None:
    write_json(
        _state_path(step), {"key": step.key, "state": state, "seconds": round(seconds, 1), "verb": step.verb.name}
    )


def _is_done(step: Step) -> bool:
    state = _state(step)
    return bool(state and state["state"] == "done" and state["key"] == step.key and step.folder.is_dir())


def _print_plan(steps: Sequence[Step], console: Console) -> None:
    for number, step in enumerate(steps, 1):
        after = f", after {', '.join(step.depends_on)}" if step.depends_on else ""
        status = "done" if _is_done(step) else "to do"
        console.print(
            f"[{number}/{len(steps)}] {step.name}: {step.verb.name} ({status}{after})", markup=False, style="bold"
        )
        text = yaml.safe_dump(step.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        console.print(text.rstrip().replace("\n", "\n    ").join(["    ", ""]), markup=False, highlight=False)


def _print_times(steps: Sequence[Step], console: Console) -> None:
    table = Table("step", "verb", "seconds", title=f"{steps[0].folder.parent}", title_justify="left")
    seconds = [(_state(s) or {}).get("seconds", 0.0) for s in steps]
    for step, spent in zip(steps, seconds, strict=True):
        table.add_row(step.name, step.verb.name, f"{spent:.1f}")
    table.add_row("all", "", f"{sum(seconds):.1f}", style="bold")
    console.print(table)

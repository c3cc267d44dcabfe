"""A command for every verb of the table: one YAML and `key=value`, `--dry-run`, and the options of its own."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from sicog.commands.help import verb_command
from sicog.config import Config, load_config, load_yaml
from sicog.estimates.arithmetic.assumed import A100_TFLOPS, UTILISATION, Assumed
from sicog.runs.verbs import VERBS, Verb

YamlFile = Annotated[str, typer.Argument(help="a YAML file of keys; default ('-'): no file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="values of keys; they override the YAML", metavar="KEY=VALUE")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")]
Estimate = Annotated[bool, typer.Option("--estimate", help="Estimate the cost from a small trial, and do not run it.")]


@dataclass(frozen=True)
class Option:
    """An option that only some verbs have. key: the key of the config that it sets; None: it belongs to the dry run."""

    name: str
    type: Any
    default: Any
    help: str
    key: str | None = None


OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "mini-data": (
        Option("out", Path | None, None, "folder to write, or out_dir=", key="out_dir"),
        Option("seed", int, 1, "seed of the world, or seed=", key="seed"),
    ),
    "train": (
        Option("device_tflops", float, A100_TFLOPS, "--dry-run: dense bfloat16 TFLOP/s of a device"),
        Option("utilisation", float, UTILISATION, "--dry-run: the used share of them"),
    ),
}
# By functions of their own: `report` takes a run's folder, `eval` a checkpoint.
WRITTEN_BY_HAND = ("report", "eval")

app = typer.Typer()


def resolve_config(verb: Verb, given: Mapping[str, Any]) -> Config:
    """The config that the words of a command line give. given: its parameters by name."""
    config, items = given.get("config") or "-", list(given.get("overrides") or [])
    if "=" in config:  # `sicog VERB key=value`: all from defaults
        config, items = "-", [config, *items]
    options = [option for option in OPTIONS.get(verb.name, ()) if option.key and given.get(option.name) is not None]
    items = [*(f"{option.key}={given[option.name]}" for option in options), *items]
    if config == "-":
        return load_config(verb.config_type(), None, items)
    _check_first_word(verb, Path(config))
    return load_config(verb.config_type(), Path(config), items)


def _check_first_word(verb: Verb, path: Path) -> None:
    """Raise `ValueError` when it is no YAML of keys, saying where data belong: people put them there first."""
    try:
        load_yaml(path)
    except ValueError as error:
        inputs = [name for name in ("input", "inputs") if name in verb.config_type().model_fields]
        if not inputs or not path.exists() or path.suffix in (".yaml", ".yml"):
            meant = f"`sicog {verb.name} --help` shows an example"
        else:
            meant = f"did you mean {inputs[0]}={path}?"
        raise ValueError(f"{error}. The first word is a YAML of keys; {meant}") from None


def start(verb: Verb, config: Config, *, dry_run: bool) -> None:
    """Do the work, or print the config and what a start would be refused for; the exit code says whether it would."""
    if not dry_run:
        verb.run(config)
        return
    from sicog.estimates.preflight import problems, work_is_finished

    echo_config(config)
    found = problems(verb, config)
    for problem in found:
        typer.echo(f"a start would be refused: {problem}", err=True)
    if found:
        raise typer.Exit(1)
    if work_is_finished(verb, config):
        typer.echo("finished already: a start would do nothing", err=True)


def echo_config(config: Config) -> None:
    """Print a config as YAML, with all defaults."""
    typer.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


def _plan_training(config: Config, given: Mapping[str, Any]) -> None:
    """Print the plan as comments above the config, so that all of it stays YAML. Exit code 1: an input is missing."""
    from sicog.estimates.training import plan_lines
    from sicog.training.config import TrainConfig

    assert isinstance(config, TrainConfig)
    device_tflops, utilisation = given["device_tflops"], given["utilisation"]
    if device_tflops <= 0 or not 0 < utilisation <= 1:
        raise ValueError("device-tflops must be above 0, and utilisation above 0 and at most 1")
    command = ["train", given["config"], *(given["overrides"] or [])]
    plan = plan_lines(config, command, os.environ, Assumed(tflops=device_tflops, utilisation=utilisation))
    for line in plan.lines:
        typer.echo(f"# {line}")
    echo_config(config)
    if not plan.would_start:
        raise typer.Exit(1)


PLANS: Mapping[str, Callable[[Config, Mapping[str, Any]], None]] = {"train": _plan_training}


def _command(verb: Verb) -> Callable[..., None]:
    def command(**given: Any) -> None:
        config = resolve_config(verb, given)
        if given["dry_run"] and verb.name in PLANS:
            PLANS[verb.name](config, given)
        elif given.get("estimate") and not given["dry_run"]:
            verb.estimate(config)
        else:
            start(verb, config, dry_run=given["dry_run"])

    words: list[tuple[str, Any, Any]] = [("config", YamlFile, "-"), ("overrides", Overrides, None)]
    words += [(o.name, Annotated[o.type, typer.Option(help=o.help)], o.default) for o in OPTIONS.get(verb.name, ())]
    words += [("dry_run", DryRun, False)]
    words += [("estimate", Estimate, False)] if verb.estimator else []
    keyword = inspect.Parameter.KEYWORD_ONLY
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, keyword, default=default, annotation=word) for name, word, default in words]
    )
    return command


for _verb in VERBS.values():
    if _verb.name not in WRITTEN_BY_HAND:
        app.command(_verb.name, help=_verb.help, cls=verb_command(_verb.name), rich_help_panel=_verb.panel)(
            _command(_verb)
        )

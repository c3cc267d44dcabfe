"""`sicog VERB CONFIG [key=value ...]`: the command line. A user's mistake ends in one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
import yaml

from sicog import __version__
from sicog.commands.arguments import taken_as_configs_do
from sicog.commands.help import GroupedCommands, lists_keys, verb_keys
from sicog.config import Config, load_config, load_yaml
from sicog.console import stderr_console
from sicog.estimates.arithmetic.assumed import A100_TFLOPS, UTILISATION, Assumed
from sicog.estimates.commands import app as estimates_app
from sicog.generation.commands import app as generation_app
from sicog.lab.commands import app as lab_app
from sicog.model.commands import app as model_app
from sicog.runs.verbs import VERBS, Verb
from sicog.training.commands import app as training_app

# Threads of OpenMP that wait spin by default, and when another process has one of the cores, all wait for it: on two
# cores, training beside a busy process ran at 3 samples/s, with passive waiting at 41. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    cls=GroupedCommands,
    help="Self-improving cognition: develop, generate, curate, construct. Most commands take one YAML and key=value; "
    "`sicog COMMAND --help` lists all keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_SECONDS_FOR_MAIN = 3
_RECIPE = "Keys of the recipe, of its YAML or as KEY=VALUE"
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it; Typer's own code for Ctrl-C

YamlFile = Annotated[str, typer.Argument(help="a YAML file of keys; left out or '-': defaults")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="values of keys, over those of the YAML", metavar="KEY=VALUE")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")]
Estimate = Annotated[bool, typer.Option("--estimate", help="Measure what it would take, and do none of it.")]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sicog {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _add_verb(verb: Verb) -> None:
    def command(
        config: YamlFile = "-",
        overrides: Overrides = None,
        dry_run: DryRun = False,
        estimate: Estimate = False,
    ) -> None:
        resolved = _resolved(verb, config, overrides)
        if dry_run:
            _show_dry_run(verb, resolved)
        elif estimate:
            verb.estimate(resolved)
        else:
            verb.run(resolved)

    def without_estimate(
        config: YamlFile = "-",
        overrides: Overrides = None,
        dry_run: DryRun = False,
    ) -> None:
        command(config, overrides, dry_run)

    app.command(verb.name, help=verb.help, cls=verb_keys(verb.name))(command if verb.estimator else without_estimate)


def _resolved(verb: Verb, config: str, overrides: list[str] | None) -> Config:
    items = overrides or []
    if "=" in config:  # `sicog VERB key=value`: all from defaults
        config, items = "-", [config, *items]
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


def _show_dry_run(verb: Verb, config: Config) -> None:
    """The resolved config, and what a start would be refused for; the exit code says whether it would."""
    from sicog.estimates.preflight import is_finished, problems

    _echo_config(config)
    found = problems(verb, config)
    for problem in found:
        typer.echo(f"a start would be refused: {problem}", err=True)
    if found:
        raise typer.Exit(1)
    if is_finished(verb, config):
        typer.echo("finished already: a start would do nothing", err=True)


def _echo_config(config: Config) -> None:
    typer.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


for _verb in VERBS.values():
    if _verb.name not in ("mini-data", "train", "report", "eval"):
        _add_verb(_verb)


@app.command("train", help=VERBS["train"].help, cls=verb_keys("train"))
def train(
    config: YamlFile = "-",
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print commands and a plan.")] = False,
    device_tflops: Annotated[float, typer.Option(help="--dry-run: a device's dense bfloat16 TFLOP/s")] = A100_TFLOPS,
    utilisation: Annotated[float, typer.Option(help="--dry-run: the share of them that is used")] = UTILISATION,
) -> None:
    """Train one stage, or plan it: the plan is printed as comments above the resolved config, which stays YAML.

    Exit code of --dry-run: 1 when an input is missing.
    """
    verb = VERBS["train"]
    resolved = _resolved(verb, config, overrides)
    if not dry_run:
        verb.run(resolved)
        return
    from sicog.estimates.training import plan_lines
    from sicog.training.config import TrainConfig

    assert isinstance(resolved, TrainConfig)
    if device_tflops <= 0 or not 0 < utilisation <= 1:
        raise ValueError("device-tflops must be above 0, and utilisation above 0 and at most 1")
    command = ["train", config, *(overrides or [])]
    plan = plan_lines(resolved, command, os.environ, Assumed(tflops=device_tflops, utilisation=utilisation))
    for line in plan.lines:
        typer.echo(f"# {line}")
    _echo_config(resolved)
    if not plan.would_start:
        raise typer.Exit(1)


@app.command("mini-data", help=VERBS["mini-data"].help, cls=verb_keys("mini-data"))
def mini_data(
    out: Annotated[Path | None, typer.Option(help="folder to write, or out_dir=")] = None,
    seed: Annotated[int, typer.Option(help="seed of the world, or seed=")] = 1,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Draw the mini world; counts are key=value, e.g. `test=100`."""
    verb = VERBS["mini-data"]
    named = [f"out_dir={out}"] if out else []
    resolved = load_config(verb.config_type(), None, [*named, f"seed={seed}", *(overrides or [])])
    if dry_run:
        _show_dry_run(verb, resolved)
        return
    verb.run(resolved)


@app.command("eval", help=VERBS["eval"].help, cls=verb_keys("eval"))
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint folder")],
    overrides: Overrides = None,
    suite: Annotated[str, typer.Option(help="a shipped suite's name, or a YAML")] = "paper",
    out: Annotated[Path, typer.Option(help="folder of results; each checkpoint gets one in it")] = Path("results"),
    judge: Annotated[str, typer.Option(help="a judge model by the kit's name; by default none")] = "exact_matching",
    samples: Annotated[int | None, typer.Option(help="instead: draw so many, and measure what K of them give")] = None,
    select: Annotated[str, typer.Option(help="with --samples: how one is chosen")] = "greedy,vote,mbr,oracle",
    compare: Annotated[list[Path] | None, typer.Option(help="with --samples: another checkpoint; repeatable")] = None,
    dry_run: DryRun = False,
) -> None:
    """Run the kit on what is not scored yet; more settings are key=value, e.g. `style=cot` or `only=[POPE]`.

    With --samples no kit is needed: accuracy against the number of samples, with and without chains of thought.
    """
    verb = VERBS["eval"]
    if samples is not None:
        from sicog.config import apply_overrides, validate
        from sicog.evaluation.sampled.suites import SampledConfig, sampled_evaluation

        values = {"checkpoints": [checkpoint, *(compare or [])], "suite": suite, "out_dir": out, "samples": samples}
        values |= {"select": select.split(",")}
        drawn = validate(SampledConfig, apply_overrides(values, overrides or [], SampledConfig), "command line")
        if dry_run:
            _echo_config(drawn)
        else:
            sampled_evaluation(drawn)
        return
    if compare:
        raise ValueError("--compare goes with --samples; the tables of several checkpoints are made by `sicog results`")
    given = [f"checkpoint={checkpoint}", f"suite={suite}", f"out_dir={out}", f"judge={judge}"]
    resolved = load_config(verb.config_type(), None, [*given, *(overrides or [])])
    if dry_run:
        _show_dry_run(verb, resolved)
        return
    verb.run(resolved)


@app.command("results")
def show_results(
    folders: Annotated[list[Path], typer.Argument(help="folders of `sicog eval`, or of the kit", metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="folder for results.md, .csv, .xlsx and .json")] = Path("results-table"),
    baseline: Annotated[str | None, typer.Option(help="the model to compare with; the first by default")] = None,
    suite: Annotated[str | None, typer.Option(help="what the kit's data sets are, for folders of its own")] = None,
) -> None:
    """One table of several checkpoints, with intervals, paired differences and the paper's numbers."""
    from sicog.evaluation.summarize import results

    typer.echo(results(folders, out, baseline=baseline, suite=suite), nl=False)


@app.command(
    help=VERBS["report"].help,
    cls=lists_keys(VERBS["report"].config, "report runs/mini", "Keys of a step `report` of a recipe"),
)
def report(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a run or of one of its steps, finished or not")],
    out: Annotated[Path | None, typer.Option(help="write the page to this folder, not within the run's")] = None,
) -> None:
    """One HTML page of a run, of an unfinished one of what there is; or of one step: candidates, kept rows, a loss."""
    from sicog.report.discover import report_run

    report_run(run_dir, out)


@app.command(cls=lists_keys("sicog.runs.recipe:RecipeSpec", "run recipes/mini.yaml run_dir=runs/mine", _RECIPE))
def run(
    recipe: Annotated[Path, typer.Argument(help="the recipe's YAML")],
    overrides: Overrides = None,
    until: Annotated[str | None, typer.Option(help="stop after this step")] = None,
    dry_run: DryRun = False,
) -> None:
    """Run a recipe: all steps in order; what is done and unchanged is skipped."""
    if dry_run:
        from sicog.estimates.recipes import show_plan

        if not show_plan(recipe, overrides or [], until=until):
            raise typer.Exit(1)
        return
    from sicog.runs.run import run as run_recipe

    run_recipe(recipe, overrides or [], until=until)


@app.command()
def step(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a run that was started")],
    name: Annotated[str, typer.Argument(help="one of its steps")],
    key: Annotated[str | None, typer.Option(help="refuse a step that has changed since")] = None,
) -> None:
    """Run one step of a planned run here, as its SLURM jobs and the processes of torchrun do."""
    from sicog.runs.execute import run_planned

    run_planned(run_dir, name, key)


@app.command()
def status(run_dir: Annotated[Path, typer.Argument(help="the folder of a run")]) -> None:
    """Show where a run stands; only reads. Exit code 1: a step has failed, or nothing works on what is left."""
    from sicog.runs.status import show_status

    if not show_status(run_dir):
        raise typer.Exit(1)


app.add_typer(generation_app)
app.add_typer(estimates_app)
app.add_typer(model_app)
app.add_typer(training_app)
app.add_typer(lab_app, name="lab")
data_app = typer.Typer(help="Look at training data.", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(data_app, name="data")


@data_app.command("check", cls=lists_keys("sicog.data.check:CheckConfig", "data check sft.json --image-folder images"))
def data_check(
    data: Annotated[str, typer.Argument(help="a dataset, a user's file or folder of shards, or a YAML mixture")],
    overrides: Overrides = None,
    image_folder: Annotated[Path | None, typer.Option(help="where the images lie: a folder or a .tar")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="whose processor counts tokens; else words")] = None,
    out: Annotated[Path | None, typer.Option(help="write the report as JSON to this file")] = None,
) -> None:
    """Read all rows and images once: what there is, what would be dropped. Exit code 1: some rows would, or none are.

    Unlabelled images and questions, preference pairs and captions are known by their keys and checked as what they are.
    """
    from sicog.config import apply_overrides, validate
    from sicog.data.check import CheckConfig
    from sicog.data.check import check as check_data

    given = {"data": {"path": data, "image_folder": image_folder}, "checkpoint": checkpoint}
    config = validate(CheckConfig, apply_overrides(given, overrides or [], CheckConfig), "command line")
    if not check_data(config, out):
        raise typer.Exit(1)


@app.command("script-help", hidden=True)
def script_help(script: Annotated[Path, typer.Argument(help="a script of the project")]) -> None:
    """What `SCRIPT.sh --help` prints."""
    from sicog.commands.script_help import describe

    typer.echo(describe(script))


taken_as_configs_do(app)


def _guarded(main: Callable[[], None]) -> None:
    """Users' mistakes are `ValueError`s whose sentence is all they need; SICOG_TRACEBACK=1 shows where they rose.

    What the machine refuses (a full disk, a folder without permission) is said with its file.
    """
    try:
        main()
    except (ValueError, OSError) as error:
        if os.environ.get("SICOG_TRACEBACK"):
            raise
        text = _sentence(error).replace("[", "\\[")  # no markup of rich's
        _leave_first_word_to_main(error)
        stderr_console().print(f"[bold red]sicog:[/] {text}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != _INTERRUPTED:
            raise
        _say_interrupted(sys.argv[1:2])
        sys.exit(_INTERRUPTED)


def _say_interrupted(command: list[str]) -> None:
    """What Ctrl-C leaves: work that writes to a folder resumes there, a question that was asked is gone."""
    if os.environ.get("RANK", "0") == "0":
        resumes = set(command) & {*VERBS, "run", "lab"}
        stderr_console().print(f"sicog: stopped{'; run the same command again to resume' if resumes else ''}")


def _sentence(error: ValueError | OSError) -> str:
    if isinstance(error, OSError):
        return _refusal(error)
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    from sicog.config.validation import validation_message

    return validation_message(error)


def _leave_first_word_to_main(error: Exception) -> None:
    """What all processes refuse, only the main one says: the others wait, and its end ends them before they speak.

    The launcher is told the error too, and names the process that failed first.
    """
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_SECONDS_FOR_MAIN)


def _refusal(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; what is finished is kept, so correct this and run again"


def main() -> None:
    """The entry point."""
    _guarded(app)


if __name__ == "__main__":
    main()

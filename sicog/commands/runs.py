"""`sicog run`, `status`, `report`, `step`: whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sicog.commands.help import command_with_keys
from sicog.commands.verb_commands import DryRun, Overrides
from sicog.runs.verbs import VERBS, Panel

app = typer.Typer()
_RUN, _REPORT = "run recipes/mini.yaml run_dir=runs/mine", VERBS["report"]


@app.command(
    cls=command_with_keys("sicog.runs.recipe:RecipeSpec", _RUN, "Keys of the recipe, of its YAML or as KEY=VALUE"),
    rich_help_panel=Panel.RUN,
)
def run(
    recipe: Annotated[Path, typer.Argument(help="the recipe's YAML")],
    overrides: Overrides = None,
    until: Annotated[str | None, typer.Option(help="stop after this step")] = None,
    dry_run: DryRun = False,
) -> None:
    """Run all steps of a recipe, in order.

    Steps that are done and unchanged are skipped.
    """
    if dry_run:
        from sicog.estimates.recipes import show_plan

        if not show_plan(recipe, overrides or [], until=until):
            raise typer.Exit(1)
        return
    from sicog.runs.run import run as run_recipe

    run_recipe(recipe, overrides or [], until=until)


@app.command(rich_help_panel=Panel.RUN)
def status(run_dir: Annotated[Path, typer.Argument(help="the folder of a run")]) -> None:
    """Show the progress of a run.

    This only reads. Exit code 1: a step has failed, or nothing works on the steps that remain.
    """
    from sicog.runs.status import show_status

    if not show_status(run_dir):
        raise typer.Exit(1)


@app.command(
    help=f"{_REPORT.help}\n\nThe folder may be a whole run's, finished or not, or one step's: candidates, kept rows, "
    "a training.",
    cls=command_with_keys(_REPORT.config, "report runs/mini", "Keys of a step `report` of a recipe"),
    rich_help_panel=_REPORT.panel,
)
def report(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a run or of one of its steps, finished or not")],
    out: Annotated[Path | None, typer.Option(help="folder for the page; default: within the run")] = None,
) -> None:
    """Make the page of a folder."""
    from sicog.report.discover import report_run

    report_run(run_dir, out)


@app.command(rich_help_panel=Panel.STEPS)
def step(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a run that was started")],
    name: Annotated[str, typer.Argument(help="one of its steps")],
    key: Annotated[str | None, typer.Option(help="refuse a step with another key: it has changed")] = None,
) -> None:
    """Run one step of a started run in this process.

    The run's SLURM jobs and the processes of torchrun call it.
    """
    from sicog.runs.execute import run_planned

    run_planned(run_dir, name, key)

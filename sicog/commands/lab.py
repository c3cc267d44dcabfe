"""`sicog lab`: try an idea on a finished mini run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sicog.commands.help import command_with_keys
from sicog.commands.verb_commands import DryRun, Overrides

app = typer.Typer(
    help="Try your own idea on a finished mini run.", no_args_is_help=True, pretty_exceptions_enable=False
)
_LAB = "sicog.lab.arms:LabConfig"
ARMS = Path("recipes/lab/arms.yaml")
CEILING = Path("recipes/lab/ceiling.yaml")
LabFile = Annotated[Path, typer.Argument(help="the YAML of the arms", metavar="LAB")]


@app.command("score")
def score(
    scorers: Annotated[
        list[Path] | None, typer.Argument(help="Python files with a function score(row, embed)", metavar="FILE")
    ] = None,
    run_dir: Annotated[Path, typer.Option("--run", help="a finished mini run")] = Path("runs/mini"),
    out: Annotated[Path | None, typer.Option(help="write the figures as JSON to this file")] = None,
    train: Annotated[bool, typer.Option("--train", help="also train on the picks of each file")] = False,
    lab: Annotated[Path, typer.Option(help="with --train: the YAML of the arms")] = ARMS,
) -> None:
    """Compare scorers on a finished run.

    Columns: truth of their picks, AUROC, risk and coverage. The code of the files is run.
    """
    from sicog.lab.compare_scorers import lab_score

    if train and not scorers:
        raise ValueError("the scorer's file is missing. Give it together with --train")
    lab_score(run_dir, scorers or [], out)
    if train:
        from sicog.lab.train_arms import lab_train

        for file in scorers or []:
            lab_train(lab, file, [f"inputs.run.path={run_dir}"])


@app.command("run", cls=command_with_keys(_LAB, "lab run updates.sft=71"))
def run(
    lab: LabFile = ARMS,
    overrides: Overrides = None,
    only: Annotated[str, typer.Option(help="arms to train, separated by commas; default: all")] = "",
    dry_run: DryRun = False,
) -> None:
    """Train every arm with every seed, and write the table.

    Arms that are done are skipped.
    """
    names = only.split(",") if only else []
    if dry_run:
        from sicog.estimates.recipes import show_plan
        from sicog.lab.arms import load_lab, write_recipe

        asked = load_lab(lab, overrides or [])
        if not show_plan(write_recipe(asked.only(names) if names else asked), []):
            raise typer.Exit(1)
        return
    from sicog.lab.train_arms import lab_run

    lab_run(lab, overrides or [], only=names)


@app.command("ceiling", cls=command_with_keys(_LAB, "lab ceiling updates.sft=71"))
def ceiling(
    lab: LabFile = CEILING,
    overrides: Overrides = None,
    only: Annotated[str, typer.Option(help="arms to train, separated by commas; default: all")] = "",
    dry_run: DryRun = False,
) -> None:
    """Measure what a round could gain at most.

    Curves of perfect rows, of mistaken rows, and of the run's own rows.
    """
    run(lab, overrides, only=only, dry_run=dry_run)


@app.command("gap")
def gap(
    run_dir: Annotated[Path, typer.Option("--run", help="a finished mini run")] = Path("runs/mini"),
    out: Annotated[Path | None, typer.Option(help="write the figures as JSON to this file")] = None,
) -> None:
    """Compare the proxy of the gap with the gap itself.

    The proxy needs no truth; the gap is measured by the truth of the development split.
    """
    from sicog.lab.gap_proxy import lab_gap

    lab_gap(run_dir, out)


@app.command("table", cls=command_with_keys(_LAB, "lab table updates.sft=71"))
def table(
    lab: LabFile = ARMS,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="folder for lab.json and lab.md; default: the run's")] = None,
) -> None:
    """Write the table of the arms that are done.

    Others may still run.
    """
    from sicog.lab.arms import load_lab
    from sicog.lab.train_arms import lab_table

    lab_table(load_lab(lab, overrides or []), out)

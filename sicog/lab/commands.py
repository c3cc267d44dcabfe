"""Commands of `sicog lab`; heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sicog.commands.help import lists_keys

app = typer.Typer(help="Try another idea on a finished mini run.", no_args_is_help=True, pretty_exceptions_enable=False)
_LAB = "sicog.lab.arms:LabConfig"
ARMS = Path("recipes/lab/arms.yaml")
CEILING = Path("recipes/lab/ceiling.yaml")
LabFile = Annotated[Path, typer.Argument(help="the YAML of the arms", metavar="LAB")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="values of keys, over those of the YAML", metavar="KEY=VALUE")
]


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
    """Compare scorers: truth of their picks, AUROC, risk and coverage. Runs the code of the files."""
    from sicog.lab.compare_scorers import lab_score

    if train and not scorers:
        raise ValueError("the scorer's file is missing. Give it together with --train")
    lab_score(run_dir, scorers or [], out)
    if train:
        from sicog.lab.train_arms import lab_train

        for file in scorers or []:
            lab_train(lab, file, [f"inputs.run.path={run_dir}"])


@app.command("run", cls=lists_keys(_LAB, "lab run updates.sft=71"))
def run(
    lab: LabFile = ARMS,
    overrides: Overrides = None,
    only: Annotated[str, typer.Option(help="arms to train, by commas; all by default")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")] = False,
) -> None:
    """Train every arm with every seed, skip finished ones, and write the table of results."""
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


@app.command("ceiling", cls=lists_keys(_LAB, "lab ceiling updates.sft=71"))
def ceiling(
    lab: LabFile = CEILING,
    overrides: Overrides = None,
    only: Annotated[str, typer.Option(help="arms to train, by commas; all by default")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")] = False,
) -> None:
    """Measure the possible gain before a round: curves of perfect rows, mistaken rows, and the run's rows."""
    run(lab, overrides, only=only, dry_run=dry_run)


@app.command("gap")
def gap(
    run_dir: Annotated[Path, typer.Option("--run", help="a finished mini run")] = Path("runs/mini"),
    out: Annotated[Path | None, typer.Option(help="write the figures as JSON to this file")] = None,
) -> None:
    """Test the gap proxy, which needs no truth, against the true gap on the development split."""
    from sicog.lab.gap_proxy import lab_gap

    lab_gap(run_dir, out)


@app.command("table", cls=lists_keys(_LAB, "lab table updates.sft=71"))
def table(
    lab: LabFile = ARMS,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="the folder for lab.json and lab.md, not the run's")] = None,
) -> None:
    """Print the table of finished arms, also while others are running."""
    from sicog.lab.arms import load_lab
    from sicog.lab.train_arms import lab_table

    lab_table(load_lab(lab, overrides or []), out)

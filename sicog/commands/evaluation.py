"""`sicog eval`, `results`: benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sicog.commands.help import verb_command
from sicog.commands.verb_commands import DryRun, Overrides, echo_config, start
from sicog.config import apply_overrides, load_config, validate
from sicog.runs.verbs import VERBS, Panel

app = typer.Typer()
_EVAL = VERBS["eval"]


@app.command(
    "eval",
    help=f"{_EVAL.help}\n\nBenchmarks that have a score are skipped. More settings are key=value, such as `style=cot` "
    "or `limit=100`. With --samples the kit is not needed: accuracy against the number of samples, with and without "
    "chains of thought.",
    cls=verb_command("eval"),
    rich_help_panel=_EVAL.panel,
)
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint folder")],
    overrides: Overrides = None,
    suite: Annotated[str, typer.Option(help="a shipped suite's name, or a YAML")] = "paper",
    out: Annotated[Path, typer.Option(help="folder of results; each checkpoint gets one in it")] = Path("results"),
    judge: Annotated[str, typer.Option(help="the kit's name of a judge model; default: none")] = "exact_matching",
    samples: Annotated[int | None, typer.Option(help="instead: sample this many answers, score K of them")] = None,
    select: Annotated[str, typer.Option(help="with --samples: how one answer is selected")] = "greedy,vote,mbr,oracle",
    compare: Annotated[list[Path] | None, typer.Option(help="with --samples: one more checkpoint; repeatable")] = None,
    dry_run: DryRun = False,
) -> None:
    """Run the kit, or sample and measure."""
    if samples is not None:
        from sicog.evaluation.sampled.suites import SampledConfig, sampled_evaluation

        values = {"checkpoints": [checkpoint, *(compare or [])], "suite": suite, "out_dir": out, "samples": samples}
        values |= {"select": select.split(",")}
        config = validate(SampledConfig, apply_overrides(values, overrides or [], SampledConfig), "command line")
        if dry_run:
            echo_config(config)
        else:
            sampled_evaluation(config)
        return
    if compare:
        raise ValueError("--compare goes with --samples; `sicog results` makes the tables of several checkpoints")
    given = [f"checkpoint={checkpoint}", f"suite={suite}", f"out_dir={out}", f"judge={judge}"]
    start(_EVAL, load_config(_EVAL.config_type(), None, [*given, *(overrides or [])]), dry_run=dry_run)


@app.command("results", rich_help_panel=Panel.EVALUATE)
def show_results(
    folders: Annotated[list[Path], typer.Argument(help="folders of `sicog eval`, or of the kit", metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="folder for results.md, .csv, .xlsx and .json")] = Path("results-table"),
    baseline: Annotated[str | None, typer.Option(help="the model to compare with; default: the first")] = None,
    suite: Annotated[str | None, typer.Option(help="the suite of the data sets, for the kit's folders")] = None,
) -> None:
    """Make one table of several evaluated checkpoints.

    It has intervals, paired differences and the paper's numbers.
    """
    from sicog.evaluation.summarize import results

    typer.echo(results(folders, out, baseline=baseline, suite=suite), nl=False)

"""`sicog reshard`, `merge-lora`. Nothing is imported before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def reshard(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a training run that was stopped")],
    processes: Annotated[int, typer.Option(min=1, help="how many will resume it")],
) -> None:
    """Let a ZeRO run go on with another number of processes: its newest checkpoint becomes a universal one."""
    from sicog.training.parallel.reshard import reshard as reshard_run

    reshard_run(run_dir, processes)


@app.command("merge-lora")
def merge_lora(
    source: Annotated[
        Path, typer.Argument(help="an adapter's folder, or the run or checkpoint it is in", metavar="SRC")
    ],
    target: Annotated[Path, typer.Argument(help="the folder to write; must not exist", metavar="DST")],
    base: Annotated[
        Path | None, typer.Option(help="checkpoint to merge into; by default what the run began with")
    ] = None,
) -> None:
    """Merge an adapter that was trained with lora into the model it belongs to."""
    from sicog.training.lora import merge_lora as merge

    merge(source, target, base=base)

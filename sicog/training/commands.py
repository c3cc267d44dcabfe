"""The commands `sicog reshard`, `merge-lora`. Imports are lazy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def reshard(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a stopped training run")],
    processes: Annotated[int, typer.Option(min=1, help="number of processes that will resume it")],
) -> None:
    """Convert a ZeRO checkpoint so that another number of processes can resume."""
    from sicog.training.parallel.reshard import reshard as reshard_run

    reshard_run(run_dir, processes)


@app.command("merge-lora")
def merge_lora(
    source: Annotated[
        Path, typer.Argument(help="the folder of an adapter, or the run or checkpoint that contains it", metavar="SRC")
    ],
    target: Annotated[Path, typer.Argument(help="the folder to write; must not exist", metavar="DST")],
    base: Annotated[
        Path | None, typer.Option(help="checkpoint to merge into; default: the initial model of the run")
    ] = None,
) -> None:
    """Merge a LoRA adapter into its base model."""
    from sicog.training.lora import merge_lora as merge

    merge(source, target, base=base)

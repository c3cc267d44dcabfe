"""`sicog import-checkpoint`, `export-checkpoint`, `merge-lora`, `reshard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sicog.runs.verbs import Panel

app = typer.Typer()


@app.command("import-checkpoint", rich_help_panel=Panel.CHECKPOINTS)
def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="a LLaVA-format folder, or a mm_projector.bin", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="the folder to write; must not exist", metavar="DST")],
    vision_tower: Annotated[str | None, typer.Option(help="the base CLIP model, if it is not one of OpenAI's")] = None,
    turn_format: Annotated[str | None, typer.Option(help="chatml or llama3; default: chatml")] = None,
) -> None:
    """Convert a checkpoint of the original into one of ours.

    The original has LLaVA's layout.
    """
    from sicog.model.original.checkpoint import import_checkpoint as import_from

    import_from(source, target, vision_tower=vision_tower, turn_format=turn_format)


@app.command("export-checkpoint", rich_help_panel=Panel.CHECKPOINTS)
def export_checkpoint(
    source: Annotated[Path, typer.Argument(help="a checkpoint folder", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="the folder to write; must not exist", metavar="DST")],
    vision_tower: Annotated[
        str | None, typer.Option(help="value of mm_vision_tower in the written config.json")
    ] = None,
) -> None:
    """Write a checkpoint in LLaVA's layout.

    The original's code loads it.
    """
    from sicog.model.original.checkpoint import CLIP
    from sicog.model.original.checkpoint import export_checkpoint as export_to

    export_to(source, target, vision_tower=vision_tower or CLIP)


@app.command("merge-lora", rich_help_panel=Panel.CHECKPOINTS)
def merge_lora(
    source: Annotated[
        Path, typer.Argument(help="the folder of an adapter, or the run or checkpoint that contains it", metavar="SRC")
    ],
    target: Annotated[Path, typer.Argument(help="the folder to write; must not exist", metavar="DST")],
    base: Annotated[
        Path | None, typer.Option(help="checkpoint to merge into; default: the initial model of the run")
    ] = None,
) -> None:
    """Merge a LoRA adapter into the model it was trained on."""
    from sicog.training.lora import merge_lora as merge

    merge(source, target, base=base)


@app.command(rich_help_panel=Panel.CHECKPOINTS)
def reshard(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a stopped training run")],
    processes: Annotated[int, typer.Option(min=1, help="number of processes that will resume it")],
) -> None:
    """Let a ZeRO run resume with another number of processes.

    Its newest checkpoint becomes a universal one.
    """
    from sicog.training.parallel.reshard import reshard as reshard_run

    reshard_run(run_dir, processes)

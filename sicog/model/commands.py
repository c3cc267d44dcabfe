"""The commands `sicog show-image`, `import-checkpoint`, `export-checkpoint`. Imports are lazy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("show-image")
def show_image(
    file: Annotated[Path, typer.Argument(help="an image file")],
    out: Annotated[Path, typer.Option(help="the PNG to write")],
    checkpoint: Annotated[Path | None, typer.Option(help="take the settings from this checkpoint")] = None,
    scale: Annotated[int | None, typer.Option(help="a view covers about scale x scale pixels")] = None,
    patch_size: Annotated[int | None, typer.Option(help="side of a patch in pixels")] = None,
    max_slices: Annotated[int | None, typer.Option(help="maximum number of slices of an image")] = None,
    long_side: Annotated[int | None, typer.Option(help="resize the long side of the image to this first")] = None,
    query_grid: Annotated[int | None, typer.Option(help="features on each side of a view; default: 12")] = None,
) -> None:
    """Draw the slices, the thumbnail and the tokens of an image."""
    from sicog.model.show import show_image as show

    settings = {"scale": scale, "patch_size": patch_size, "max_slices": max_slices, "long_side": long_side}
    all_given = {**settings, "query_grid": query_grid}
    if checkpoint is not None and (given := [name for name, value in all_given.items() if value is not None]):
        raise ValueError(f"{', '.join(given)} come with the checkpoint. Give either these options or --checkpoint")
    for line in show(file, out, checkpoint=checkpoint, query_grid=12 if query_grid is None else query_grid, **settings):
        typer.echo(line)


@app.command("import-checkpoint")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="a LLaVA-format folder, or a mm_projector.bin", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="the folder to write; must not exist", metavar="DST")],
    vision_tower: Annotated[str | None, typer.Option(help="the base CLIP model, if it is not one of OpenAI's")] = None,
    turn_format: Annotated[str | None, typer.Option(help="chatml or llama3; default: chatml")] = None,
) -> None:
    """Convert a checkpoint of the original (LLaVA's layout) to ours."""
    from sicog.model.original.checkpoint import import_checkpoint as import_from

    import_from(source, target, vision_tower=vision_tower, turn_format=turn_format)


@app.command("export-checkpoint")
def export_checkpoint(
    source: Annotated[Path, typer.Argument(help="a checkpoint folder", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="the folder to write; must not exist", metavar="DST")],
    vision_tower: Annotated[
        str | None, typer.Option(help="value of mm_vision_tower in the written config.json")
    ] = None,
) -> None:
    """Write a checkpoint in LLaVA's layout for the original's code."""
    from sicog.model.original.checkpoint import CLIP
    from sicog.model.original.checkpoint import export_checkpoint as export_to

    export_to(source, target, vision_tower=vision_tower or CLIP)

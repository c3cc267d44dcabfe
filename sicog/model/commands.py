"""`sicog show-image`, `import-checkpoint`, `export-checkpoint`. Nothing is imported before it is used."""

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
    max_slices: Annotated[int | None, typer.Option(help="slices of an image at most")] = None,
    long_side: Annotated[int | None, typer.Option(help="resize the image to this long side first")] = None,
    query_grid: Annotated[int | None, typer.Option(help="features a side of a view; 12 by default")] = None,
) -> None:
    """Draw what an image becomes: slices, thumbnail, the order and the number of its tokens."""
    from sicog.model.show import show_image as show

    settings = {"scale": scale, "patch_size": patch_size, "max_slices": max_slices, "long_side": long_side}
    all_given = {**settings, "query_grid": query_grid}
    if checkpoint is not None and (given := [name for name, value in all_given.items() if value is not None]):
        raise ValueError(f"{', '.join(given)} come with the checkpoint; give either them or --checkpoint")
    for line in show(file, out, checkpoint=checkpoint, query_grid=12 if query_grid is None else query_grid, **settings):
        typer.echo(line)


@app.command("import-checkpoint")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="a LLaVA-format folder, or a mm_projector.bin", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="the folder to write; must not exist", metavar="DST")],
    vision_tower: Annotated[str | None, typer.Option(help="the CLIP it was built on, if not one of OpenAI's")] = None,
    turn_format: Annotated[str | None, typer.Option(help="chatml or llama3; chatml unless given")] = None,
) -> None:
    """Turn a checkpoint of the original (LLaVA's layout) into one of ours."""
    from sicog.model.original.checkpoint import import_checkpoint as import_from

    import_from(source, target, vision_tower=vision_tower, turn_format=turn_format)


@app.command("export-checkpoint")
def export_checkpoint(
    source: Annotated[Path, typer.Argument(help="a checkpoint folder", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="the folder to write; must not exist", metavar="DST")],
    vision_tower: Annotated[str | None, typer.Option(help="mm_vision_tower of the config.json written")] = None,
) -> None:
    """Write a checkpoint in LLaVA's layout, as the original's code loads it."""
    from sicog.model.original.checkpoint import CLIP
    from sicog.model.original.checkpoint import export_checkpoint as export_to

    export_to(source, target, vision_tower=vision_tower or CLIP)

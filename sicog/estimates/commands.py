"""`sicog flops`. Nothing is imported before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def flops(
    config: Annotated[Path, typer.Argument(help="a checkpoint folder, or a JSON or YAML file of SicogConfig fields")],
    image: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels, or none")] = "1024x768",
    text: Annotated[int, typer.Option(help="text tokens of a row")] = 500,
    supervised: Annotated[int | None, typer.Option(help="those of them that are supervised; all by default")] = None,
    devices: Annotated[int, typer.Option(help="devices that ZeRO divides among")] = 1,
    long_side: Annotated[int | None, typer.Option(help="resize the image to this long side first")] = None,
) -> None:
    """Plan a training: tokens, FLOPs by part, parameters, and memory by stage and ZeRO stage."""
    from sicog.estimates.flops_tables import print_tables

    print_tables(config, image=image, text=text, supervised=supervised, devices=devices, long_side=long_side)

"""`sicog ask`, `data check`, `show-image`, `show-corruptions`, `flops`: look at answers, data and images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sicog.commands.help import command_with_keys
from sicog.commands.verb_commands import Overrides
from sicog.config import apply_overrides, validate
from sicog.runs.verbs import Panel
from sicog.tasks import TASKS

app = typer.Typer()
data_app = typer.Typer(help="Check training data.", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(data_app, name="data", rich_help_panel=Panel.LOOK)
_STYLES = ", ".join(style for task in TASKS.values() for style in task.styles)
_STYLE_HELP = f"how to ask: {_STYLES}; by default direct, and without a question dd"


@app.command(rich_help_panel=Panel.LOOK)
def ask(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint folder")],
    image: Annotated[Path, typer.Argument(help="an image file")],
    question: Annotated[str, typer.Argument(help="the question; may be empty for captions")] = "",
    style: Annotated[str | None, typer.Option(help=_STYLE_HELP)] = None,
    samples: Annotated[int, typer.Option(help="number of answers to sample")] = 5,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.7,
    seed: Annotated[int, typer.Option(help="seed of the samples")] = 0,
) -> None:
    """Ask a checkpoint about an image.

    Prints the answer, its steps, and how far the samples agree.
    """
    from sicog.generation.ask import ask as ask_checkpoint

    ask_checkpoint(checkpoint, image, question, style=style, samples=samples, temperature=temperature, seed=seed)


@data_app.command(
    "check", cls=command_with_keys("sicog.data.check:CheckConfig", "data check sft.json --image-folder images")
)
def data_check(
    data: Annotated[str, typer.Argument(help="a dataset, a user's file or folder of shards, or a YAML mixture")],
    overrides: Overrides = None,
    image_folder: Annotated[Path | None, typer.Option(help="the images: a folder or a .tar")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="count its tokens; default: count words")] = None,
    out: Annotated[Path | None, typer.Option(help="write the report as JSON to this file")] = None,
) -> None:
    """Check all rows and images: what would be dropped?

    Exit code 1: some rows would be dropped, or there are none. Unlabelled images and questions, preference pairs and
    captions are known by their keys and checked as what they are.
    """
    from sicog.data.check import CheckConfig
    from sicog.data.check import check as check_data

    given = {"data": {"path": data, "image_folder": image_folder}, "checkpoint": checkpoint}
    config = validate(CheckConfig, apply_overrides(given, overrides or [], CheckConfig), "command line")
    if not check_data(config, out):
        raise typer.Exit(1)


@app.command("show-image", rich_help_panel=Panel.LOOK)
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
    """Draw the slices of an image and count its tokens.

    Also its thumbnail, and the order of the tokens.
    """
    from sicog.model.show import show_image as show

    settings = {"scale": scale, "patch_size": patch_size, "max_slices": max_slices, "long_side": long_side}
    all_given = {**settings, "query_grid": query_grid}
    if checkpoint is not None and (given := [name for name, value in all_given.items() if value is not None]):
        raise ValueError(f"{', '.join(given)} come with the checkpoint. Give either these options or --checkpoint")
    for line in show(file, out, checkpoint=checkpoint, query_grid=12 if query_grid is None else query_grid, **settings):
        typer.echo(line)


@app.command("show-corruptions", rich_help_panel=Panel.LOOK)
def show_corruptions(
    image: Annotated[Path, typer.Argument(help="an image file")],
    out: Annotated[Path, typer.Option(help="the PNG to write")],
    seed: Annotated[int, typer.Option(help="seed of the parameters")] = 0,
) -> None:
    """Draw an image under each corruption.

    Answers to reject are sampled from such images.
    """
    from sicog.generation.show_corruptions import show_corruptions as show

    show(image, out, seed=seed)


@app.command(rich_help_panel=Panel.LOOK)
def flops(
    config: Annotated[Path, typer.Argument(help="a checkpoint folder, or a JSON or YAML file of SicogConfig fields")],
    image: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels, or none")] = "1024x768",
    text: Annotated[int, typer.Option(help="text tokens of a row")] = 500,
    supervised: Annotated[int | None, typer.Option(help="supervised text tokens of a row; default: all")] = None,
    devices: Annotated[int, typer.Option(help="number of devices for ZeRO")] = 1,
    long_side: Annotated[int | None, typer.Option(help="resize the long side of the image to this first")] = None,
) -> None:
    """Estimate tokens, FLOPs and memory of a training.

    FLOPs and parameters by part, memory by stage and by ZeRO stage.
    """
    from sicog.estimates.flops_tables import print_tables

    print_tables(config, image=image, text=text, supervised=supervised, devices=devices, long_side=long_side)

"""The commands `sicog ask`, `export-candidates`, `show-corruptions`. Imports are lazy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sicog.tasks import TASKS

app = typer.Typer()
_STYLES = ", ".join(style for task in TASKS.values() for style in task.styles)
_STYLE_HELP = f"how to ask: {_STYLES}; by default direct, and without a question dd"


@app.command()
def ask(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint folder")],
    image: Annotated[Path, typer.Argument(help="an image file")],
    question: Annotated[str, typer.Argument(help="the question; may be empty for captions")] = "",
    style: Annotated[str | None, typer.Option(help=_STYLE_HELP)] = None,
    samples: Annotated[int, typer.Option(help="number of answers to sample")] = 5,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.7,
    seed: Annotated[int, typer.Option(help="seed of the samples")] = 0,
) -> None:
    """Ask a checkpoint about an image; print the answer, its steps and the agreement."""
    from sicog.generation.ask import ask as ask_checkpoint

    ask_checkpoint(checkpoint, image, question, style=style, samples=samples, temperature=temperature, seed=seed)


@app.command("export-candidates")
def export_candidates(
    source: Annotated[Path, typer.Argument(help="a folder of candidate sets", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="the JSON file to write", metavar="DST")],
    generated: Annotated[bool, typer.Option("--generated", help="one candidate a row, as sampling writes it")] = False,
) -> None:
    """Export candidates to the original's files."""
    from sicog.generation.original_files import export_candidates as export_to

    export_to(source, target, form="generated" if generated else "candidates")


@app.command("show-corruptions")
def show_corruptions(
    image: Annotated[Path, typer.Argument(help="an image file")],
    out: Annotated[Path, typer.Option(help="the PNG to write")],
    seed: Annotated[int, typer.Option(help="of the parameters")] = 0,
) -> None:
    """Draw an image under each corruption for rejected answers."""
    from sicog.generation.show_corruptions import show_corruptions as show

    show(image, out, seed=seed)

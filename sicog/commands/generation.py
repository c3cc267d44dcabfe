"""`sicog export-candidates`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sicog.runs.verbs import Panel

app = typer.Typer()


@app.command("export-candidates", rich_help_panel=Panel.GENERATE)
def export_candidates(
    source: Annotated[Path, typer.Argument(help="a folder of candidate sets", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="the JSON file to write", metavar="DST")],
    generated: Annotated[
        bool, typer.Option("--generated", help="one candidate per row, as sampling writes it")
    ] = False,
) -> None:
    """Write candidates as the original's files.

    By default for its curation, with --generated as its sampling writes them.
    """
    from sicog.generation.original_files import export_candidates as export_to

    export_to(source, target, form="generated" if generated else "candidates")

"""`sicog VERB CONFIG [key=value ...]`: the command line. A user's mistake ends in one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sicog.commands import convert, evaluation, generation, lab, look, runs, verb_commands
from sicog.commands.arguments import check_arguments
from sicog.commands.help import CommandsInPanels
from sicog.console import stderr_console, styled_text
from sicog.runs.verbs import VERBS, Panel
from sicog.version import __version__

# Threads of OpenMP that wait spin by default, and when another process has one of the cores, all wait for it: on two
# cores, training beside a busy process ran at 3 samples/s, with passive waiting at 41. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    cls=CommandsInPanels,
    help="Self-improving cognition: develop, generate, curate, construct. Most commands take one YAML and key=value; "
    "`sicog COMMAND --help` lists all keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_SECONDS_FOR_RANK_0 = 3
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it; Typer's own code for Ctrl-C


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sicog {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


for _commands in (runs, verb_commands, evaluation, generation, look, convert):
    app.add_typer(_commands.app)
app.add_typer(lab.app, name="lab", rich_help_panel=Panel.MINI)


@app.command("script-help", hidden=True)
def script_help(script: Annotated[Path, typer.Argument(help="a script of the project")]) -> None:
    """Print what `SCRIPT.sh --help` prints."""
    from sicog.commands.script_help import describe

    typer.echo(describe(script))


check_arguments(app)


def report_mistakes(main: Callable[[], None]) -> None:
    """Print users' mistakes as one sentence: `ValueError`s, and what the machine refuses (a full disk, no permission).

    SICOG_TRACEBACK=1 shows where they were raised.
    """
    try:
        main()
    except (ValueError, OSError) as error:
        if os.environ.get("SICOG_TRACEBACK"):
            raise
        _wait_for_rank_0(error)
        stderr_console().print(styled_text(("sicog:", "bold red"), f" {_error_sentence(error)}"), soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != _INTERRUPTED:
            raise
        _say_interrupted(sys.argv[1:2])
        sys.exit(_INTERRUPTED)


def _say_interrupted(command: list[str]) -> None:
    """Say that the command was interrupted, and whether it can resume: only what writes to a folder can."""
    if os.environ.get("RANK", "0") == "0":
        resumes = set(command) & {*VERBS, "run", "lab"}
        stderr_console().print(f"sicog: stopped{'; run the same command again to resume' if resumes else ''}")


def _error_sentence(error: ValueError | OSError) -> str:
    if isinstance(error, OSError):
        return _os_error_sentence(error)
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    from sicog.config.validation import validation_message

    return validation_message(error)


def _wait_for_rank_0(error: Exception) -> None:
    """Only rank 0 prints the error. Other ranks wait, and the launcher stops them when rank 0 ends.

    The launcher gets the error too, and names the process that failed first.
    """
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_SECONDS_FOR_RANK_0)


def _os_error_sentence(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; finished work is kept, so fix this and run the command again"


def main() -> None:
    """The entry point."""
    report_mistakes(app)


if __name__ == "__main__":
    main()

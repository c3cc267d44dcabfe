"""The one maker of Rich consoles, and `say()` for messages.

Whatever is printed is shown as it is written: paths, ids and names of users are no markup, in sentences and in tables.
Colours come from `style=` and from `rich.text.Text`. On a terminal, output fits its width; in a pipe or a log, no line
is wrapped or cut: a log is searched line by line, so a sentence there must be one line however long it is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.text import Text

_UNBOUNDED = 10_000  # columns: more than any table or sentence has


def stdout_console() -> Console:
    """For results: what the user asked to see."""
    return console_on(sys.stdout, stderr=False)


def stderr_console() -> Console:
    """For messages and progress."""
    return console_on(sys.stderr, stderr=True)


def say(text: str, style: str | None = None) -> None:
    """Print one line to the user, indented, on stderr."""
    stderr_console().print(f"  {text}", style=style, soft_wrap=True)


def say_finished(step: str, folder: Path) -> None:
    """Say that a step which was started again has nothing to do, since its folder is complete."""
    say(f"{step}: {folder} is finished already, nothing to do")


def styled_text(*parts: str | tuple[str, str]) -> Text:
    """A line of several styles: plain text, or (text, style)."""
    return Text.assemble(*parts)


def console_on(stream: IO[str], **where: Any) -> Console:
    """A console whose lines are those of `stream`. `where`: what `Console` takes to write to it.

    Brackets and emoji codes stay as they are: `[old]` in a path is no style, and `:100:` no picture. Whether a person
    watches is asked of the stream itself: FORCE_COLOR, which many CI systems set, makes Rich take a log for a terminal
    of 80 columns.
    """
    as_written = {"markup": False, "highlight": False, "emoji": False, **where}
    if stream.isatty():
        return Console(**as_written)
    return Console(width=_UNBOUNDED, soft_wrap=True, **as_written)

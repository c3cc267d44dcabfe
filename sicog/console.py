"""The one maker of Rich consoles. On a terminal, output fits its width; in a pipe or a log, no line is wrapped or cut.

A log is searched line by line, so a sentence there must be one line however long it is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, Any

from rich.console import Console

_UNBOUNDED = 10_000  # columns: more than any table or sentence has


def stdout_console() -> Console:
    """For results: what the user asked to see."""
    return console_on(sys.stdout, stderr=False)


def stderr_console() -> Console:
    """For messages and progress."""
    return console_on(sys.stderr, stderr=True)


def say(text: str) -> None:
    """One line to the user, on stderr, as it is: no word of it is markup."""
    stderr_console().print(f"  {text}", highlight=False, markup=False, soft_wrap=True)


def say_finished(step: str, folder: Path) -> None:
    """What a step says that was started again when its folder was complete."""
    say(f"{step}: {folder} is finished already, nothing to do")


def console_on(stream: IO[str], **where: Any) -> Console:
    """A console whose lines are those of `stream`. `where`: what `Console` takes to write to it.

    Emoji codes stay as they are: `:100:` in a file's name is no picture. Whether a person watches is asked of the
    stream itself: FORCE_COLOR, which many CI systems set, makes Rich take a log for a terminal of 80 columns.
    """
    if stream.isatty():
        return Console(emoji=False, **where)
    return Console(emoji=False, width=_UNBOUNDED, soft_wrap=True, **where)

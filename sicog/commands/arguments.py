"""Arguments of commands outside any config are checked as a config checks them: `~` is the home folder, integers fit 64
bits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from sicog.config.paths import expand_home


def check_arguments(app: typer.Typer) -> None:
    """Change all commands of the app and of its groups: `--out=~/x` is `--out ~/x`, and long integers are errors."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _with_checks(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            check_arguments(group.typer_instance)


def _with_checks(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def call(*args: Any, **kwargs: Any) -> Any:
        return callback(*args, **{name: _checked_value(name, value) for name, value in kwargs.items()})

    return call


def _checked_value(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_checked_value(name, item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: must be a number of at most 64 bits, got {value}")
    return expand_home(value) if isinstance(value, Path) else value

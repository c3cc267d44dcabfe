"""What `--help` says beyond the arguments: the commands in panels, and for each command an example and all keys."""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

from typer.core import TyperCommand, TyperGroup

from sicog.config.keys import as_text, sections
from sicog.runs.verbs import VERBS, Panel, load

_WIDTH = 100  # where the output is no terminal


class CommandsInPanels(TyperGroup):
    """The commands by panel, in the order of `Panel`; within a panel in the order in which they were added."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands; hidden ones have no panel and come last."""
        order = {panel: place for place, panel in enumerate(Panel)}
        panels: dict[str, Any] = {
            name: getattr(command, "rich_help_panel", None) for name, command in self.commands.items()
        }
        return sorted(panels, key=lambda name: order.get(panels[name], len(order)))


def command_with_keys(
    config: str, example: str, title: str = "Keys, of the YAML or as KEY=VALUE"
) -> type[TyperCommand]:
    """A command whose help ends with an example and the keys of a config, which is imported only then.

    config: `module:name` of its class. example: the words after `sicog`.
    """

    class KeyedCommand(TyperCommand):
        def get_help(self, ctx: Any) -> str:
            width = shutil.get_terminal_size((_WIDTH, 24)).columns
            shown = textwrap.indent(f"sicog {example}", "  ")
            listed = as_text(sections(load(config)), width)
            return f"{super().get_help(ctx)}\nExample\n{shown}\n\n{title}\n{listed}\n"

    return KeyedCommand


def verb_command(name: str) -> type[TyperCommand]:
    """A command whose help lists the keys of a verb."""
    verb = VERBS[name]
    return command_with_keys(verb.config, f"{name} {verb.example}")

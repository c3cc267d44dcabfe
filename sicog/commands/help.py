"""What `--help` says beyond the arguments: the commands in groups, and of a command an example and all keys."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

from sicog.config.keys import as_text, sections
from sicog.runs.verbs import VERBS, load

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Whole runs: all four steps from one recipe": ("run", "status", "report", "step"),
    "1 Develop: warm-up examples, for `train`": ("annotate",),
    "2 Generate: candidates for unlabelled images and questions": (
        *("sample", "group", "show-corruptions", "import-candidates", "export-candidates"),
    ),
    "3 Curate: scores, and what is kept": (
        *("score", "select", "curate", "thresholds", "pair", "overlap"),
        *("claims", "ask-claims", "check-claims", "settle"),
    ),
    "4 Construct: the training set and the next model": (
        *("build", "mix", "train", "reshard", "merge-lora", "gap", "alarms", "promote"),
    ),
    "Evaluate": ("ask", "eval", "eval-samples", "results"),
    "Data, images and checkpoints": ("data", "show-image", "flops", "import-checkpoint", "export-checkpoint"),
    "The mini world and the lab": (
        *("mini-data", "mini-parts", "mini-annotate", "sweep", "mini-eval", "mini-gap", "mini-tsv"),
        *("lab", "lab-pick", "lab-perfect"),
    ),
}
_PANELS = {name: title for title, names in GROUPS.items() for name in names}
_WIDTH = 100  # where the output is no terminal
_HIDDEN = ("script-help",)


class GroupedCommands(TyperGroup):
    """The commands under the step of the method that they belong to, in the order of `GROUPS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, those that people call first."""
        return [*_PANELS, *_HIDDEN]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, which knows its group."""
        command: Any = super().get_command(ctx, cmd_name)
        if command is not None:
            command.rich_help_panel = _PANELS.get(cmd_name)
        return command


def lists_keys(config: str, example: str, title: str = "Keys, of the YAML or as KEY=VALUE") -> type[TyperCommand]:
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


def verb_keys(name: str) -> type[TyperCommand]:
    """A command whose help lists the keys of a verb."""
    verb = VERBS[name]
    return lists_keys(verb.config, f"{name} {verb.example}")

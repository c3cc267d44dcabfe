"""Expand the rounds of a recipe into ordinary steps, and resolve `${...}` references.

The steps of `each_round` become `round-1/NAME`, `round-2/NAME` ... In them, and in `then`,

    ${NAME}            the step of the same round, else the step before all rounds
    ${previous.A|B}    step A of the previous round; in the first round B, a step before all rounds
    ${all.NAME}        in a list: the step of every round up to this one
    ${last.NAME}       in `then`: the step of the last round
    ${inputs.NAME}     the path of an input
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sicog.runs.config import InputSpec

_REFERENCE = re.compile(r"\$\{([^}]+)\}")


@dataclass
class Scope:
    """Names that the references of one step can use, and the earlier steps it has used.

    folders: of the steps before it. of_round: names in `each_round`. number: the step's round, 0 outside of rounds, and
    in `then` the number of rounds.
    """

    where: str
    folders: Mapping[str, Path]
    inputs: Mapping[str, InputSpec]
    of_round: Collection[str] = ()
    number: int = 0
    after_all: bool = False
    used: set[str] = field(default_factory=set)

    def resolve_value(self, value: Any) -> Any:
        """Return the value with every reference replaced. Raises `ValueError` for an unknown reference."""
        if isinstance(value, dict):
            return {key: self.resolve_value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [found for item in value for found in self._items(item)]
        return self._text(value) if isinstance(value, str) else value

    def _items(self, item: Any) -> Iterator[Any]:
        """Yield an item of a list; a reference to all rounds gives one item per round."""
        every = [m for m in _REFERENCE.findall(item) if m.startswith("all.")] if isinstance(item, str) else []
        if not every:
            yield self.resolve_value(item)
            return
        if len(every) > 1 or not self.number:
            raise ValueError(
                f"{self.where}: {item} names all rounds more than once, or outside of rounds. Use ${{all.NAME}} once"
            )
        name = every[0].removeprefix("all.")
        for number in range(1, self.number + 1):
            yield self._text(item.replace(f"${{all.{name}}}", f"${{{step_name(number, name)}}}"))

    def _text(self, text: str) -> str:
        return _REFERENCE.sub(lambda match: self._one(match.group(1)), text)

    def _one(self, reference: str) -> str:
        kind, dot, name = reference.partition(".")
        if dot and kind == "inputs":
            if name not in self.inputs:
                raise ValueError(
                    f"{self.where}: ${{{reference}}} is not an input. Use one of: {', '.join(self.inputs)}"
                )
            return self.inputs[name].path
        if dot and kind == "previous" and self.number and not self.after_all:
            name, bar, first = name.partition("|")
            if self.number == 1 and not bar:
                raise ValueError(
                    f"{self.where}: {name!r} does not exist before the first round. Name a step for it: "
                    f"${{previous.{name}|STEP}}"
                )
            return self._folder(first if self.number == 1 else step_name(self.number - 1, name), reference)
        if dot and kind == "last" and self.after_all:
            return self._folder(step_name(self.number, name), reference)
        if dot and kind == "all":
            raise ValueError(f"{self.where}: ${{{reference}}} means several folders. Write it as an item of a list")
        own = self.number and not self.after_all and reference in self.of_round
        return self._folder(step_name(self.number, reference) if own else reference, reference)

    def _folder(self, name: str, reference: str) -> str:
        if name not in self.folders:
            known = ", ".join(self.folders) or "none"
            raise ValueError(f"{self.where}: ${{{reference}}} is not an earlier step. Use one of: {known}")
        self.used.add(name)
        return str(self.folders[name])


def step_name(number: int, name: str) -> str:
    """Return the name of a step of a round, which is also its folder in the run."""
    return f"round-{number}/{name}"

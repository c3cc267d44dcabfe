"""All commands with their arguments, and all keys of their configs: what users' scripts and YAMLs depend on.

`python tests/surface.py` writes surface.json anew and prints the line that CHANGELOG.md must get.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from sicog import cli
from sicog.config.keys import configs, sections
from sicog.runs.verbs import VERBS, load

FILE, CHANGELOG = Path(__file__).with_name("surface.json"), Path(__file__).parents[1] / "CHANGELOG.md"
COMMAND = "python tests/surface.py"
# Commands that are no verbs and take keys, and configs that a verb's command takes beside its own.
MORE_CONFIGS = {
    "data check": "sicog.data.check:CheckConfig",
    "eval --samples": "sicog.evaluation.sampled.suites:SampledConfig",
    "lab": "sicog.lab.arms:LabConfig",
    "run": "sicog.runs.recipe:RecipeSpec",
}
_LINE = re.compile(r"^- Surface (\d+) \(([0-9a-f]{8})\): (.*(?:\n  .*)*)", re.MULTILINE)


def of_the_code() -> dict[str, Any]:
    """The surface as it is now."""
    configs = {name: verb.config for name, verb in VERBS.items()} | MORE_CONFIGS
    return {
        "commands": dict(sorted(_commands(typer.main.get_command(cli.app)))),
        "keys": {name: dict(sorted(_all_keys(load(config)))) for name, config in sorted(configs.items())},
    }


def _commands(group: Any, above: str = "") -> Iterator[tuple[str, str]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{above}{name} ")
        elif not command.hidden:
            yield f"{above}{name}", ", ".join(_argument(p) for p in command.params if p.name != "help")


def _argument(parameter: Any) -> str:
    named = parameter.param_type_name == "option"
    words = "/".join(parameter.opts) if named else parameter.name.upper()
    more = "..." if parameter.nargs == -1 or getattr(parameter, "multiple", False) else ""
    default = parameter.default
    shown = f" = {default}" if isinstance(default, str | int | float | Path) and not isinstance(default, bool) else ""
    return f"{words}{more}{' (required)' if parameter.required else shown}"


def _all_keys(config: Any) -> Iterator[tuple[str, str]]:
    yield from _keys(config)
    for old, key in {**getattr(config, "also", {}), **getattr(config, "formerly", {})}.items():
        yield old, f"another name of {key}"


def _keys(config: Any, above: str = "", within: tuple[Any, ...] = ()) -> Iterator[tuple[str, str]]:
    for key in sections(config)[0].keys:
        default = ", required" if key.default == "required" else f" = {key.default}" if key.default else ""
        yield f"{above}{key.name}", f"{key.type}{default}"
    for name, field in config.model_fields.items():
        for place, inner in configs(f"{above}{name}", field.annotation):
            if inner not in (config, *within):
                yield from _keys(inner, f"{place}.", (config, *within))


def digest(surface: Mapping[str, Any]) -> str:
    """Of commands and keys."""
    text = json.dumps({part: surface[part] for part in ("commands", "keys")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What was added (+), removed (-) or changed (~), one line each."""
    old, new = _flat(before), _flat(now)
    lines = [f"- {name}: {old[name]}" for name in old if name not in new]
    lines += [f"+ {name}: {new[name]}" for name in new if name not in old]
    return [*lines, *(f"~ {name}: {old[name]} -> {new[name]}" for name in old if old[name] != new.get(name, old[name]))]


def _flat(surface: Mapping[str, Any]) -> dict[str, str]:
    commands = {f"sicog {name}": words for name, words in surface["commands"].items()}
    return commands | {f"{name}: {key}": text for name, keys in surface["keys"].items() for key, text in keys.items()}


def lines_of(changelog: str) -> dict[int, tuple[str, str]]:
    """The digest and the text of each numbered line about the surface. Raises `ValueError` for a number given twice."""
    found: dict[int, tuple[str, str]] = {}
    for number, known, text in _LINE.findall(changelog):
        if int(number) in found:
            raise ValueError(f"CHANGELOG.md has two lines that begin with `- Surface {number}`")
        found[int(number)] = (known, text)
    return found


def problems(stored: Mapping[str, Any], now: Mapping[str, Any], changelog: str) -> list[str]:
    """Why this may not be committed, each with what to do."""
    if changed := differences(stored, now):
        listed = "\n  ".join(changed)
        return [
            f"commands or keys differ from tests/surface.json. Run `{COMMAND}`, then say in CHANGELOG.md:\n  {listed}"
        ]
    version, lines = stored["version"], lines_of(changelog)
    found = [
        f"CHANGELOG.md has no line `- Surface {number} (...): what changed`"
        for number in range(1, version + 1)
        if number not in lines
    ]
    if version in lines and lines[version][0] != digest(stored):
        found.append(
            f"tests/surface.json has the digest {digest(stored)}, and CHANGELOG.md says {lines[version][0]} of surface "
            f"{version}: run `{COMMAND}` and add the line that it prints; do not change an old one"
        )
    found += [f"surface {n} in CHANGELOG.md: say what changed" for n, (_, text) in lines.items() if len(text) < 10]
    return found + [f"CHANGELOG.md has a surface {n}, later than tests/surface.json" for n in lines if n > version]


def renew(now: Mapping[str, Any], file: Path = FILE, changelog: Path = CHANGELOG) -> str:
    """Write the file; returns the line that the changelog lacks, empty when it lacks none.

    A surface gets the number after the last one in the changelog: to run this twice before the line is written is once.
    """
    lines = lines_of(changelog.read_text())
    last = max(lines, default=0)
    same = last and lines[last][0] == digest(now)
    text = json.dumps({"version": last if same else last + 1, **now}, indent=1, ensure_ascii=False)
    file.write_text(f"{text}\n")
    return "" if same else f"- Surface {last + 1} ({digest(now)}): WHAT CHANGED"


if __name__ == "__main__":
    for difference in differences(json.loads(FILE.read_text()), of_the_code()) if FILE.is_file() else []:
        print(difference)
    line = renew(of_the_code())
    print(f"add to CHANGELOG.md, under `Commands and keys`:\n{line}" if line else "nothing has changed")

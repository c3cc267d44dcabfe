"""`SCRIPT.sh --help`: the variables of a script, read from the script itself, and the YAML whose values they change."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sicog.config.keys import sections
from sicog.runs.verbs import VERBS

_VARIABLE = re.compile(r"\$\{?([A-Z][A-Z_]+)\b")
_REQUIRED = re.compile(r"\$\{([A-Z][A-Z_]+):\?([^}]*)\}")
_NAMED = re.compile(r"# ([A-Z][A-Z_]+): (.+)")
_ROOT = re.compile(r'dirname "\$\{BASH_SOURCE\[0\]\}"\)/([./]+)"')
_STARTS = re.compile(r'launch\.sh" ([\w-]+) "\$root/([^"]+)"')
_SETS = re.compile(r'([\w.]+)="([^"]*)"')
_INTERNAL = ("BASH_SOURCE",)
_DISTRIBUTED = 'Arguments of torchrun, such as "--nproc_per_node 8", for several devices.'


@dataclass(frozen=True)
class Variable:
    """An exported variable. default: None when it is required."""

    name: str
    default: str | None
    meaning: str


def describe(script: Path, width: int = 100) -> str:
    """What the script does, its variables and its YAML, for people. Raises `ValueError` for a file that is no script of
    this project."""
    text = script.read_text(encoding="utf-8")
    if not (starts := _STARTS.search(text)) or not (up := _ROOT.search(text)):
        raise ValueError(f"{script} does not start `sicog`")
    verb, config = starts[1], (script.parent / up[1] / _fill_in_values(starts[2], text)).resolve()
    lines = [*_description(text), "", "Variables; export them, or write them before the script's name:"]
    for variable in variables(text, verb):
        default = "  (required)" if variable.default is None else f" = {variable.default}" if variable.default else ""
        lines.append(f"  {variable.name}{default}")
        lines += textwrap.wrap(variable.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["", f"Any key of `sicog {verb} --help` follows as key=value. Values that are set, in {config}:"]
    return "\n".join([*lines, textwrap.indent(config.read_text(encoding="utf-8").rstrip(), "  ")])


def variables(text: str, verb: str) -> list[Variable]:
    """The variables of a script's text, the required ones first. verb: what it starts."""
    required = dict(_REQUIRED.findall(text))
    named = {match[1]: match[2] for line in text.splitlines() if (match := _NAMED.fullmatch(line))}
    comments = {key.name: key.comment for section in sections(VERBS[verb].config_type()) for key in section.keys}
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    names = dict.fromkeys(name for name in _VARIABLE.findall(code) if name not in _INTERNAL)
    found = [Variable(name, _default(name, code), _meaning(name, code, required | named, comments)) for name in names]
    if VERBS[verb].trains:
        found.append(Variable("DISTRIBUTED_ARGS", "", _DISTRIBUTED))
    return sorted(found, key=lambda variable: variable.default is not None)


def _meaning(name: str, code: str, given: Mapping[str, str], comments: Mapping[str, str]) -> str:
    keys = [key for key, value in _SETS.findall(code) if key in comments and name in _VARIABLE.findall(value)]
    if name in given:
        return given[name][0].upper() + given[name][1:] + "."
    assert keys, name
    return f"{keys[0]}: {comments[keys[0]]}"


def _default(name: str, code: str) -> str | None:
    """What follows `:-`, up to its brace; None where the script asks for the variable."""
    if f"{{{name}:?" in code:
        return None
    start = code.find(f"{{{name}:-")
    if start < 0:
        return ""
    begin = end = start + len(name) + 3
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(code[end], 0)
        end += 1
    return code[begin : end - 1]


def _description(text: str) -> list[str]:
    comments = [line for line in text.splitlines()[1:] if line.startswith("#")]
    used = _VARIABLE.findall(text)
    named = [match[0] for line in comments if (match := _NAMED.fullmatch(line)) and match[1] in used]
    return [line.removeprefix("# ") for line in comments if line not in named]


def _fill_in_values(path: str, text: str) -> str:
    """A path with the script's own variables: what they are first set to."""
    return re.sub(r"\$([a-z_]+)", lambda found: re.findall(rf"\b{found[1]}=(\w+)", text)[0], path)

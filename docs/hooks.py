"""For mkdocs: a link to a file of the repository that is no page of the site becomes the file's path, as text; the page
of keys is filled in from the config classes, which need no torch."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from sicog.config.keys import Section, as_table, sections
from sicog.runs.verbs import VERBS, Panel

_KEYS = "<!-- the keys of all verbs -->"
_LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, config: Any, page: Any, **_: Any) -> str:
    """The page's text; a link to a file that does not exist is left, so that the strict build names it."""
    root, folder = Path(config.docs_dir).parent, Path(page.file.abs_src_path).parent

    def named(link: re.Match[str]) -> str:
        text, target = link.group(1), (folder / link.group(2)).resolve()
        if not target.exists() or not target.is_relative_to(root):
            return link.group()
        path = target.relative_to(root).as_posix()
        return f"`{path}`" if path.endswith(text.strip("`").rstrip("/")) else f"{text} (`{path}`)"

    return _LINK.sub(named, markdown.replace(_KEYS, keys_of_all_verbs()) if _KEYS in markdown else markdown)


def keys_of_all_verbs() -> str:
    """A section for each verb by the panels of `sicog --help`; configs within several verbs come once, at the end."""
    listed = {name: sections(verb.config_type()) for name, verb in VERBS.items()}
    uses = Counter(section.config for found in listed.values() for section in found)
    shared: dict[type, Section] = {}
    lines: list[str] = []
    for panel in Panel:
        names = [name for name, verb in VERBS.items() if verb.panel == panel]
        lines += ["", f"## {panel}"] if names else []
        for name in names:
            own, *inner = listed[name]
            example = f"```text\nsicog {name} {VERBS[name].example}\n```"
            lines += ["", f"### sicog {name}", "", VERBS[name].help, "", example, "", as_table(own)]
            for section in inner:
                if uses[section.config] > 1:
                    shared.setdefault(section.config, section)
                lines += ["", _places(section, linked=uses[section.config] > 1)]
                lines += ["", as_table(section)] if uses[section.config] == 1 else []
    lines += ["", "## Configs within several verbs"]
    for config, section in shared.items():
        lines += ["", f"### {config.__name__}", "", section.says, "", as_table(section)]
    return "\n".join(lines)


def _places(section: Section, *, linked: bool) -> str:
    where = ", ".join(f"`{place}`" for place in section.places)
    name = section.config.__name__
    return f"{where}: see [{name}](#{name.lower()})." if linked else f"{where}: {section.says}"

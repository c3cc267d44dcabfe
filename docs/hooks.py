"""For mkdocs: a link to a file of the repository that is no page of the site becomes the file's path, as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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

    return _LINK.sub(named, markdown)

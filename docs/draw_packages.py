"""Draw the packages of sicog and who imports whom, from the source: `python docs/draw_packages.py` writes packages.svg.

Rows are the layers, the lowest at the bottom. An arrow goes from a package to one that it imports, in a function or at
the top of a file. Arrows that follow from others are left out. An import that goes up is drawn in red.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "packages.svg"

# Lowest first. A box: where its middle is in the picture, and the modules and packages of `sicog` in it; the longest
# name wins.
LAYERS: tuple[Mapping[str, tuple[int, str]], ...] = (
    {"records": (330, "records chains tasks answers numbers seeds version")},
    {"console": (600, "console progress")},
    {"config": (450, "config")},
    {"stages": (450, "stages")},
    {"formats": (330, "formats")},
    {"model": (330, "model"), "statistics": (820, "statistics")},
    {"estimates.arithmetic": (160, "estimates.arithmetic")},
    {"data": (380, "data")},
    {"remote": (600, "remote")},
    {
        "training": (130, "training"),
        "curation": (350, "curation"),
        "annotation": (560, "annotation"),
        "generation": (740, "generation"),
    },
    {"runs.recipe": (270, "runs.config runs.verbs runs.rounds runs.recipe runs.states")},
    {"estimates": (130, "estimates")},
    {"runs": (350, "runs")},
    {"evaluation": (740, "evaluation")},
    {"mini": (500, "mini")},
    {"report": (400, "report"), "lab": (620, "lab")},
    {"commands": (510, "commands")},
    {"cli": (510, "cli __main__")},
)
LABELS = {"records": "records, chains, tasks, answers", "runs.recipe": "runs: recipe, verbs"}
WIDTH, PITCH, BOX, HIGH = 920, 60, 150, 34  # pixels: the picture, from row to row, a box


def box_of(module: str) -> str:
    """The box that a module of sicog is in (`model.slicing`). Raises `ValueError` when it is in none."""
    homes = {home: box for layer in LAYERS for box, (_, names) in layer.items() for home in names.split()}
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        if (home := ".".join(parts[:n])) in homes:
            return homes[home]
    raise ValueError(f"sicog/{module} has no layer; add it to LAYERS in docs/draw_packages.py")


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """The boxes that each box imports."""
    files = {".".join(path.relative_to(root / "sicog").with_suffix("").parts): path for path in _sources(root)}
    modules = {name.removesuffix(".__init__"): path for name, path in files.items() if name != "__init__"}
    found: dict[str, set[str]] = {box: set() for layer in LAYERS for box in layer}
    for module, path in modules.items():
        for name in _imported(ast.parse(path.read_text())):
            if home := _known(name, modules):
                found[box_of(module)].add(box_of(home))
    return {box: others - {box} for box, others in found.items()}


def _sources(root: Path) -> list[Path]:
    return sorted((root / "sicog").rglob("*.py"))


def _imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names below sicog, those that begin with it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sicog":
            yield from (f"{node.module}.{alias.name}".removeprefix("sicog.") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("sicog.") for a in node.names if a.name.startswith("sicog."))


def _known(name: str, modules: Mapping[str, Path]) -> str | None:
    """The module that an imported name is, or is in; None for the version of the package."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def level(box: str) -> int:
    """The layer of a box, 0 at the bottom."""
    return next(n for n, layer in enumerate(LAYERS) if box in layer)


def arrows(found: Mapping[str, set[str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(those that go down and do not follow from others, those that do not go down), sorted."""
    down = {a: {b for b in others if level(b) < level(a)} for a, others in found.items()}

    def below(box: str) -> set[str]:
        return {deeper for b in down[box] for deeper in ({b} | below(b))}

    implied = {a: {deep for b in others for deep in below(b)} for a, others in down.items()}
    plain = [(a, b) for a, others in down.items() for b in others - implied[a]]
    wrong = [(a, b) for a, others in found.items() for b in others - down[a]]
    return sorted(plain), sorted(wrong)


def picture(found: Mapping[str, set[str]]) -> str:
    """The SVG of what `imports` found."""
    plain, wrong = arrows(found)
    height = PITCH * len(LAYERS) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, -apple-system, \'Segoe UI\', Roboto, sans-serif" font-size="14">',
        "  <title>The packages of sicog, and who imports whom</title>",
        _marker("tip", "#7986cb"),
        _marker("wrong", "#c62828"),
        f'  <rect width="{WIDTH}" height="{height}" rx="14" fill="#f6f7fc"/>',
        *(_arrow(a, b, "tip", "#7986cb") for a, b in plain),
        *(_arrow(a, b, "wrong", "#c62828") for a, b in wrong),
        *(_box(box) for layer in reversed(LAYERS) for box in layer),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _middle(box: str) -> tuple[int, int]:
    n = level(box)
    return LAYERS[n][box][0], PITCH * (len(LAYERS) - 1 - n) + 10 + PITCH // 2


def _marker(name: str, colour: str) -> str:
    shape = f'<path d="M0 0 10 5 0 10z" fill="{colour}"/>'
    size = 'viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"'
    return f'  <defs><marker id="{name}" {size}>{shape}</marker></defs>'


def _arrow(a: str, b: str, marker: str, colour: str) -> str:
    """From the lower edge of one box to the upper edge of the other; beside each other or up, from edge to edge."""
    (x, y), (to_x, to_y) = _middle(a), _middle(b)
    down = 1 if to_y >= y else -1
    y, to_y = y + down * HIGH // 2, to_y - down * HIGH // 2
    if level(a) == level(b):
        y, to_y = y - HIGH // 2, to_y + HIGH // 2
    bend = max(18, abs(to_y - y) // 2) * down
    path = f"M{x} {y}C{x} {y + bend} {to_x} {to_y - bend} {to_x} {to_y}"
    style = f'fill="none" stroke="{colour}" stroke-width="1.6" marker-end="url(#{marker})"'
    return f'  <path d="{path}" {style}><title>{a} imports {b}</title></path>'


def _box(box: str) -> str:
    (x, y), label = _middle(box), LABELS.get(box, box)
    wide = max(BOX, 8 * len(label))
    place = f'x="{x - wide // 2}" y="{y - HIGH // 2}" width="{wide}" height="{HIGH}"'
    title = f"<title>{', '.join(LAYERS[level(box)][box][1].split())}</title>"
    rect = f'<rect {place} rx="8" fill="#fff" stroke="#c5cae9"/>'
    return f'  <g>{title}{rect}<text x="{x}" y="{y + 5}" text-anchor="middle" fill="#1a237e">{label}</text></g>'


if __name__ == "__main__":
    PICTURE.write_text(picture(imports()))
    print(PICTURE.relative_to(ROOT))

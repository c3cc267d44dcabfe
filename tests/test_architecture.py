"""The rules of the tree: who may import whom, how long files and functions are, and that every module is named."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FILE, MAX_FUNCTION = 400, 60

# Lowest first. A module may import those of its own line that are in its own package, and those of all lines above it.
# A name stands for the module or package and all within it that no longer name stands for.
LAYERS = (
    "sicog.records sicog.numbers sicog.seeds sicog.version",
    "sicog.chains sicog.answers",
    "sicog.tasks",
    "sicog.console",
    "sicog.progress",
    "sicog.config",
    "sicog.stages",
    "sicog.formats",
    "sicog.statistics sicog.model",
    "sicog.estimates.arithmetic",
    "sicog.data",
    "sicog.remote",
    "sicog.annotation sicog.training sicog.generation sicog.curation",
    "sicog.runs.config sicog.runs.verbs",
    "sicog.runs.rounds",
    "sicog.runs.recipe",
    "sicog.runs.states",
    "sicog.estimates",
    "sicog.runs",
    "sicog.evaluation",
    "sicog.mini",
    "sicog.report sicog.lab",
    "sicog.commands",
    "sicog",
    "sicog.cli",
    "sicog.__main__",
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
# Names of documents that are not in the repository: a reader cannot look them up.
CITATION = re.compile(r"\b(reference-spec|measures\.md|gpu-review|D-[A-Z]{1,2}\d+|\(R\d{1,2}\)|# R\d{1,2}\b)")


@cache
def modules() -> dict[str, Path]:
    """The files of the package by dotted name; a package stands under its own."""
    found = {}
    for path in sorted((ROOT / "sicog").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


@cache
def statements(name: str) -> tuple[ast.stmt, ...]:
    """All statements of a module, nested ones too. Expressions, most of a tree, are not looked into."""
    found, waiting = list[ast.stmt](), list[ast.AST](tree(name).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            found.append(node)
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, part, ()) if isinstance(getattr(node, part, ()), list) else ()
    return tuple(found)


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of the package that one imports, those within functions and for type checkers too."""
    found = set()
    for node in statements(name):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{name}:{node.lineno}: relative imports are not used here"
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules() else node.module
                for alias in node.names
            }
    return frozenset(found & modules().keys()) - {name}


def layer(module: str) -> str:
    """The longest name of `LAYERS` that stands for the module."""
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        if (name := ".".join(parts[:n])) in LEVEL and (n > 1 or len(parts) == 1):
            return name
    raise AssertionError(f"{module} is in no layer of tests/test_architecture.py: give it one")


def test_every_module_imports_from_its_own_package_or_from_layers_below() -> None:
    wrong = []
    for name in modules():
        for other in imports(name):
            if layer(other) != layer(name) and LEVEL[layer(other)] >= LEVEL[layer(name)]:
                wrong.append(f"{name} imports {other}, which is in a layer beside or above it")
    assert not wrong, "\n".join(sorted(wrong))


def test_no_imports_go_round_in_circles() -> None:
    try:
        tuple(TopologicalSorter({name: imports(name) for name in modules()}).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_no_two_modules_of_one_name_do_different_jobs() -> None:
    same_job = {"__init__", "config", "commands", "estimate"}
    places: dict[str, list[str]] = {}
    for name, path in modules().items():
        places.setdefault(path.stem, []).append(name)
    assert not {stem: names for stem, names in places.items() if len(names) > 1 and stem not in same_job}


def test_files_and_functions_can_be_taken_in() -> None:
    long = [f"{n}: {k} lines" for n, p in modules().items() if (k := p.read_text().count("\n")) > MAX_FILE]
    for name in modules():
        for node in statements(name):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long += [f"{name}.{node.name}: {lines} lines"] if lines > MAX_FUNCTION else []
    assert not long, "\n".join(long)


def test_every_module_says_its_job_and_is_named_where_readers_look() -> None:
    readme = (ROOT / "README.md").read_text()
    tree_of_readme = readme[readme.index("sicog/\n") :].partition("```")[0]
    missing = []
    for name, path in modules().items():
        if not ast.get_docstring(tree(name)):
            missing.append(f"{path} has no first line that says its job")
        package, _, stem = name.rpartition(".")
        if path.name in ("__init__.py", "__main__.py"):
            continue
        # A line of the package's docstring begins with the module, or has it in backticks.
        in_package = re.search(rf"^{stem}/? |`{stem}`", ast.get_docstring(tree(package)) or "", re.MULTILINE)
        if not in_package and not re.search(rf"\b{stem}\.py\b", tree_of_readme):
            missing.append(f"{name} is named neither in the README's tree nor in the docstring of {package}")
    assert not missing, "\n".join(missing)


def texts() -> Iterator[tuple[Path, str]]:
    """Every file of code and prose that is in the repository."""
    for folder in ("sicog", "tests", "docs", "recipes", "examples", "benchmarks", "training_scripts"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".md", ".yaml", ".sh") and path != Path(__file__):
                yield path, path.read_text()


def test_no_text_cites_a_document_that_is_not_here() -> None:
    found = [f"{path.relative_to(ROOT)}: {match[0]}" for path, text in texts() for match in CITATION.finditer(text)]
    assert not found, "\n".join(found)

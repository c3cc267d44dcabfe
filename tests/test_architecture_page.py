"""docs/architecture.md: its picture is that of the source, and its table of layers names every package."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import test_architecture as tested

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()

_SPEC = importlib.util.spec_from_file_location("draw_packages", ROOT / "docs" / "draw_packages.py")
assert _SPEC and _SPEC.loader
draw = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(draw)


def source(root: Path, **files: str) -> Path:
    """A package whose modules hold these texts, by name with `__` for a dot."""
    for name, text in files.items():
        path = root / "sicog" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_picture_is_that_of_the_source():
    assert draw.PICTURE.read_text() == draw.picture(draw.imports()), "run `python docs/draw_packages.py`"


def test_the_picture_has_a_box_for_every_package():
    shown = " ".join(t.text or "" for t in ElementTree.parse(draw.PICTURE).iter("{http://www.w3.org/2000/svg}title"))
    packages = {path.parent.name for path in (ROOT / "sicog").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"[\w.]+", shown))


def test_the_table_of_the_page_has_the_layers_of_the_picture():
    rows = re.findall(r"^\| (`.*?) \|", PAGE.split("## Who may import whom")[1], re.MULTILINE)
    layers = [[name for _, names in layer.values() for name in names.split()] for layer in draw.LAYERS]
    left_out = {"progress", "__main__"}
    assert [set(re.findall(r"`([\w.]+)`", row)) for row in rows] == [set(names) - left_out for names in layers]


def test_the_layers_of_the_page_are_in_the_order_that_is_tested():
    names = [[f"sicog.{name}" for _, held in layer.values() for name in held.split()] for layer in draw.LAYERS]
    levels = [[tested.LEVEL[tested.layer(name)] for name in layer if name in tested.modules()] for layer in names]
    for n, (lower, higher) in enumerate(pairwise(levels)):
        assert max(lower) < min(higher), (names[n], names[n + 1])


def test_imports_in_functions_and_of_modules_count(tmp_path):
    root = source(
        tmp_path,
        records="import json",
        data__table="def f():\n    from sicog.records import Example\n",
        training__train="from sicog.data import table\nimport sicog.records",
        estimates__arithmetic__flops="from sicog import records",
    )
    found = draw.imports(root)
    assert (found["data"], found["training"]) == ({"records"}, {"data", "records"})
    assert found["estimates.arithmetic"] == {"records"} and not found["estimates"]


def test_arrows_that_follow_from_others_are_left_out_and_those_that_go_up_are_told_apart(tmp_path):
    root = source(
        tmp_path,
        records="",
        data__a="import sicog.records",
        curation__b="import sicog.data.a\nimport sicog.records",
        generation__c="import sicog.curation.b",
        model__d="import sicog.data.a",
    )
    plain, wrong = draw.arrows(draw.imports(root))
    assert plain == [("curation", "data"), ("data", "records")]
    assert wrong == [("generation", "curation"), ("model", "data")]
    assert draw.picture(draw.imports(root)).count("url(#wrong)") == 2

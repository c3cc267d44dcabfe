"""`import sicog`: what it offers, and that it costs nothing before it is used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sicog

PACKAGE = Path(sicog.__file__).parent


def run(code):
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


HEAVY = {"torch", "transformers", "numpy", "pydantic", "typer", "rich"}


def test_importing_the_package_needs_neither_torch_nor_transformers():
    run(f"import sys, sicog; assert dir(sicog) and sicog.__version__ and not {HEAVY} & set(sys.modules)")


def test_recipes_and_configs_need_no_torch_either():
    names = "SampleConfig ScoreConfig SelectConfig Recipe load_recipe run_recipe sample score select"
    run(f"import sys, sicog; [getattr(sicog, n) for n in {names.split()}]; assert 'torch' not in sys.modules")


@pytest.mark.parametrize("name", [name for name in sicog.__all__ if name != "__version__"])
def test_every_name_is_there_and_is_what_type_checkers_see(name):
    offered = getattr(sicog, name)
    tree = ast.parse(Path(sicog.__file__).read_text())
    (seen,) = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (alias.asname or alias.name) == name
    ]
    __import__(seen[0])
    assert offered is getattr(sys.modules[seen[0]], seen[1])
    assert offered.__doc__ and name in dir(sicog)


def test_no_name_hides_a_module_of_the_package():
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not set(sicog.__all__) & modules
    assert set(sicog.__all__) == {*sicog._HOME, "__version__"}


def test_a_name_that_is_not_there_is_said_with_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'sampel'; it offers .*sample"):
        _ = sicog.sampel
    with pytest.raises(ImportError):
        exec("from sicog import sampel")


def test_a_recipe_is_loaded_and_run_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {k: 1 for k in ("align", "sft", "warmup_captions", "warmup_reasoning", "unlabelled", "dev", "test")}
    Path("r.yaml").write_text(f"run_dir: out\nsteps: {{world: {{run: mini-data, config: {few}}}}}".replace("'", ""))
    recipe = sicog.load_recipe("r.yaml", ["run_dir=mine"])
    assert isinstance(recipe, sicog.Recipe) and [step.name for step in recipe.steps] == ["world"]
    assert sicog.run_recipe("r.yaml", ["run_dir=mine"]) == Path("mine")
    assert (tmp_path / "mine" / "world" / "manifest.json").is_file()


def test_the_lines_of_the_api_page_are_true(tmp_path, monkeypatch):
    page = (PACKAGE.parent / "docs" / "api.md").read_text()
    block = re.search(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert block
    cells = re.findall(r"^\| `(.*?)` \|", page, re.MULTILINE)
    listed = {name for cell in cells for name in cell.split("`, `")}
    assert listed == set(sicog.__all__) - {"__version__"}
    monkeypatch.setattr(sicog, "load_checkpoint", lambda folder: (None, None), raising=False)
    monkeypatch.setattr(sicog, "run_recipe", lambda path, overrides: sicog.load_recipe(path, overrides), raising=False)
    for name in ("sample", "score", "select"):
        monkeypatch.setattr(sicog, name, lambda config: config.out_dir, raising=False)
    monkeypatch.chdir(PACKAGE.parent)
    values = {}
    exec(block[1], values)
    assert values["kept"] == Path("data/kept")

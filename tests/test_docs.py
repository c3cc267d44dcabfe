"""The site is built without a warning and needs no network; every command of every page can be run as it stands.

The shell blocks run in bash with a stand-in for each program, which notes how it was called. Scripts are the real ones,
so variables that a script misses are found. The notes are then read by the real command line: arguments are parsed,
configs and overrides validated, recipes resolve_config.
"""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from sicog import cli
from sicog.commands.verb_commands import resolve_config
from sicog.config import Config
from sicog.lab.arms import load_lab, steps
from sicog.runs.recipe import load_recipe
from sicog.runs.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md")) + [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
STEPS = ("training_scripts", "training_data_annotation", "recap_scripts", "quality_evaluation", "benchmarks")
PAGES += [ROOT / name / "README.md" for name in STEPS]
STAND_INS = ("sicog", "torchrun", "make", "hf", "pip", "python", "sbatch")


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run shell text in a folder that shows the repository, and return the calls it made."""
    folder = tmp_path_factory.mktemp("docs")
    programs, user = folder / "bin", folder / "user"
    programs.mkdir()
    user.mkdir()
    (user / "images").mkdir()  # a folder of the user's, which pages list
    (user / ".venv" / "bin").mkdir(parents=True)  # as make leaves it
    (user / ".venv" / "bin" / "activate").touch()
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("build", "runs", "dist"):
            (user / entry.name).symlink_to(entry)
    for name in STAND_INS:
        note = f'#!/bin/bash\nprintf \'%s\\x1f\' {name} "$@" >> "$CALLS"; printf \'\\x1e\' >> "$CALLS"\n'
        (programs / name).write_text(note)
        (programs / name).chmod(0o755)

    def run_text(text: str) -> list[list[str]]:
        calls = folder / "calls"
        calls.write_text("")
        variables = {"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(calls), "HOME": str(folder), "LANG": "C.UTF-8"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=user,
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return [call.split("\x1f")[:-1] for call in calls.read_text().split("\x1e")[:-1]]

    before = Path.cwd()
    os.chdir(user)
    yield run_text
    os.chdir(before)


def check(call: list[str]) -> None:
    """Raise when this call could not be made."""
    program, arguments = call[0], call[1:]
    {
        "sicog": check_sicog,
        "torchrun": lambda given: check_sicog(given[given.index("sicog") + 1 :]),
        "make": check_make,
        "pip": check_pip,
        "python": check_python,
        "hf": check_hf,
        "sbatch": check_sbatch,
    }[program](arguments)


def check_sicog(arguments: list[str]) -> None:
    command, name = typer.main.get_command(cli.app), "sicog"
    context = command.make_context(name, list(arguments), resilient_parsing="--help" in arguments)
    while hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest:
            return
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    given = context.params
    if "lab" in given:
        arms = load_lab(Path(given["lab"]), given.get("overrides") or [])
        assert list(steps(arms.only(given["only"].split(",")) if given.get("only") else arms))
    elif name == "run":
        load_recipe(given["recipe"], given["overrides"] or [])
    elif name in VERBS and "config" in given:
        assert isinstance(resolve_config(VERBS[name], given), Config)


def check_make(arguments: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {a for a in arguments if "=" not in a} <= targets, arguments


def check_pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
        assert set(named.split(",")) <= set(extras), named


def only_lacks_inputs(done: subprocess.CompletedProcess[str]) -> bool:
    """A dry run in a folder where the page's files are not: it says so, and nothing else."""
    return done.returncode == 1 and all(line.endswith(" does not exist") for line in done.stderr.splitlines())


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        module = ROOT.joinpath(*arguments[1].split("."))
        assert arguments[1] in ("http.server", "pytest", "build") or module.with_suffix(".py").is_file(), arguments
        return
    assert (ROOT / arguments[0]).is_file(), arguments
    if (ROOT / arguments[0]).read_text().rstrip().endswith("    main()"):  # the command line with something more
        dry = [a for a in arguments[1:] if a != "--dry-run"]
        done = subprocess.run(
            [sys.executable, ROOT / arguments[0], *dry, "--dry-run"], capture_output=True, text=True, timeout=120
        )
        assert not done.returncode or only_lacks_inputs(done), done.stderr


def check_hf(arguments: list[str]) -> None:
    from huggingface_hub.cli.download import download

    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(download).parameters}
    assert arguments[0] == "download" and {a for a in arguments if a.startswith("--")} <= known, arguments


def check_sbatch(arguments: list[str]) -> None:
    scripts = [a for a in arguments if not a.startswith("-")]
    assert scripts and all((ROOT / script).is_file() for script in scripts), arguments


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.is_file() and blocks(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_command_of_a_page(run, page):
    calls = run("\n".join(blocks(page)))  # as a reader does it: what one block exports holds in the next
    assert calls
    for call in calls:
        try:
            check(call)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{shlex.join(call)}\n{type(error).__name__}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_data_that_a_page_shows_can_be_read(page):
    for kind, text in re.findall(r"^```(json|yaml)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        assert json.loads(text) if kind == "json" else yaml.safe_load(text)


def test_a_wrong_command_is_found(run):
    for wrong in (
        ["sicog", "sample", "no_such_key=1"], ["sicog", "no-such-verb"], ["sicog", "data", "check"],
        ["sicog", "flops", "--no-such"], ["make", "no-such"], ["pip", "install", "sicog[no_such]"],
    ):  # fmt: skip
        with pytest.raises((Exception, SystemExit)):
            check(wrong)
    with pytest.raises(AssertionError, match="EXPERIMENT_NAME"):
        run("training_scripts/uhdv1-dpo.sh")
    with pytest.raises(AssertionError, match="not found"):
        run("no-such-program")


def test_the_site_is_built_without_a_warning_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    pages = sorted((tmp_path / "site").glob("*.html"))
    assert {p.stem for p in pages} >= {p.stem for p in (ROOT / "docs").glob("*.md")}
    for page in pages:
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=\"?(https?:[^\"\s>]+)", text)
        fetched += re.findall(r"(?:@import|url\()\s*[\"']?(https?:[^\"')]+)", text)
        assert not fetched, f"{page.name}: {fetched}"
    shown = (tmp_path / "site" / "extending.html").read_text()
    assert "write_mistral" in shown and "--8&lt;--" not in shown
    api, keys = ((tmp_path / "site" / name).read_text() for name in ("api.html", "keys.html"))
    assert "<strong>depends_on</strong>" in api  # a docstring's lists are lists
    assert "Rows with fewer comparable candidates are dropped." in keys
    assert all(f'id="sicog-{verb}"' in keys for verb in VERBS)
    assert "Hidden size." in keys and keys.count('id="encoderconfig"') == 1
    assert not list((tmp_path / "site").glob("*.py"))
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text())
    words = {
        w for doc in index["docs"] for w in re.split(index["config"]["separator"], f"{doc['title']} {doc['text']}")
    }
    assert {"consistency", "threshold", "embeddings"} <= words and not [word for word in words if "*" in word]

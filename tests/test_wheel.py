"""The package as it is released: a wheel that holds every file the package needs, and works where it is installed."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sicog

ROOT = Path(__file__).parents[1]


def tracked(*folders: str) -> list[str]:
    """Files of the working tree, those to be added too, without what git ignores."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built without the network from a copy, so that the build leaves nothing in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked("sicog", "pyproject.toml", "README.md", "LICENSE"):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    build = [
        "wheel",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        folder / "source",
    ]
    done = subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("sicog-")}
    assert inside == set(tracked("sicog"))
    metadata = zipfile.ZipFile(wheel).read(f"{'-'.join(wheel.stem.split('-')[:2])}.dist-info/METADATA").decode()
    for extra in ("train", "gpu", "generate", "curate", "eval", "track", "dev"):
        assert f"Provides-Extra: {extra}\n" in metadata
    assert "License-Expression: Apache-2.0" in metadata and "Requires-Python: <3.14,>=3.11" in metadata


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_an_installed_wheel_works(wheel, tmp_path):
    target = tmp_path / "target"
    install = ["install", "--quiet", "--no-index", "--no-deps", "--target", target, wheel]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=200)
    environment = {**os.environ, "PYTHONPATH": str(target), "SICOG_CACHE": str(tmp_path / "cache")}

    def run(*command) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import sicog; print(sicog.__file__)").startswith(str(target))
    shown = run(target / "bin" / "sicog", "--help")
    assert "train" in shown and "curate" in shown
    # The mini parts and the teacher's prompt are read from the package.
    run("-m", "sicog", "mini-parts", "-", "out_dir=parts", "source=shipped")
    assert (tmp_path / "parts" / "language_model" / "model.safetensors").is_file()
    assert "version: cod-v1" in (target / "sicog" / "annotation" / "prompts" / "cod-v1.yaml").read_text()


def test_what_is_said_of_the_release_agrees():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == sicog.__version__ == citation["version"]
    assert f"[Unreleased]: {sicog.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert [author["name"] for author in project["authors"]] == [author["name"] for author in citation["authors"]]
    assert "2503.12303" in citation["preferred-citation"]["journal"]


def test_the_pins_hold_what_developers_need():
    """Every package of the extras that `make setup-dev` stands for is pinned, in a version that the extra allows."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = {}
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if "==" in line:
                package, version = line.split("==")
                pinned[canonicalize_name(package)] = version
    for requirement in map(Requirement, [*extras["test"], *extras["docs"], *extras["mini"]]):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version and requirement.specifier.contains(version), requirement

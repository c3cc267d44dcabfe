"""docs/from-python.md: its lines run as they stand, one block after another."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden_recipe import draw_image
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import hub as transformers_hub

from sicog.model import load_checkpoint

PAGE = Path(__file__).parents[1] / "docs" / "from-python.md"


class Hub:
    """A hub that keeps what is pushed in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def create_repo(self, repo_id, **_):
        return SimpleNamespace(repo_id=repo_id)

    def create_commit(self, *, repo_id, operations, **_):
        for one in operations:
            target = self.folder / repo_id / one.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one.path_or_fileobj, target)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    def no_card(*_, **__):
        raise LocalEntryNotFoundError("a new repository has no card")

    monkeypatch.setattr(transformers_hub, "hf_api", lambda: Hub(tmp_path / "hub"))
    monkeypatch.setattr(ModelCard, "load", no_card)
    return tmp_path / "hub"


def test_the_lines_of_the_page_run(tiny_dir, tmp_path, monkeypatch, capsys, hub):
    shutil.copytree(tiny_dir, tmp_path / "runs" / "next" / "stage2")
    draw_image(110, 60, 1).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    exec("\n".join(blocks).replace("max_new_tokens=50", "max_new_tokens=2"), {})
    said = capsys.readouterr().out
    assert "1 torch.Size(" in said and "trainable params" in said
    trained, before = (load_checkpoint(tmp_path / "runs" / name)[0] for name in ("mine", "next/stage2"))
    assert not trained.resampler.query.equal(before.resampler.query)
    assert (tmp_path / "runs" / "mine" / "README.md").is_file()
    pushed = hub / "me" / "sicog-mine"
    assert {path.name for path in pushed.iterdir()} == {path.name for path in (tmp_path / "runs" / "mine").iterdir()}
    assert "automatically generated" in (pushed / "README.md").read_text()
    found = AutoModelForImageTextToText.from_pretrained(pushed)
    assert torch.equal(found.resampler.query, trained.resampler.query)
    inputs = AutoProcessor.from_pretrained(pushed)(images="photo.jpg", text="What is this?")
    assert found.generate(**inputs, max_new_tokens=2).shape[0] == 1


def test_the_versions_on_the_page_are_those_tested():
    for package, version in re.findall(r"\b(TRL|PEFT) (\d+\.\d+)", PAGE.read_text()):
        installed = pytest.importorskip(package.lower()).__version__
        assert installed.startswith(version), package

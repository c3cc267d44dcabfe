"""docs/from-python.md: its lines run as they stand, one block after another."""

import re
import shutil
from pathlib import Path

import pytest
from golden_recipe import draw_image

from sicog.model import load_checkpoint

PAGE = Path(__file__).parents[1] / "docs" / "from-python.md"


def test_the_lines_of_the_page_run(tiny_dir, tmp_path, monkeypatch, capsys):
    shutil.copytree(tiny_dir, tmp_path / "runs" / "next" / "stage2")
    draw_image(110, 60, 1).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    exec("\n".join(blocks).replace("max_new_tokens=50", "max_new_tokens=2"), {})
    assert "1 torch.Size(" in capsys.readouterr().out
    trained, before = (load_checkpoint(tmp_path / "runs" / name)[0] for name in ("mine", "next/stage2"))
    assert not trained.resampler.query.equal(before.resampler.query)
    assert (tmp_path / "runs" / "mine" / "README.md").is_file()


def test_the_versions_on_the_page_are_those_tested():
    for package, version in re.findall(r"\b(TRL|PEFT) (\d+\.\d+)", PAGE.read_text()):
        installed = pytest.importorskip(package.lower()).__version__
        assert installed.startswith(version), package

"""script_help.py: every variable of every script is explained, with its default."""

import re
import subprocess
from pathlib import Path

import pytest

from sicog.commands.script_help import describe, variables

ROOT = Path(__file__).parents[2]
STARTERS = ("launch.sh", "install.sh")
SCRIPTS = sorted(p for p in ROOT.glob("*/**/*.sh") if ".venv" not in p.parts and p.name not in STARTERS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_variable_of_a_script_is_explained(script):
    text, said = script.read_text(), describe(script)
    used = set(re.findall(r"\$\{?([A-Z][A-Z_]+)", text)) - {"BASH_SOURCE"}
    assert used and all(re.search(rf"^  {name}( |$)", said, re.MULTILINE) for name in used)
    assert ("DISTRIBUTED_ARGS" in said) == ('launch.sh" train' in text)
    assert said.splitlines()[0] == text.splitlines()[1].removeprefix("# ")


def test_what_is_required_the_defaults_and_the_yaml():
    said = describe(ROOT / "training_scripts/uhdv1-finetune-qwen-stage2-sft.sh")
    assert "  DATA_PATH  (required)\n      Instruction data.\n" in said
    assert "  GLOBAL_BATCH = null\n      global_batch: Rows of an update over all processes" in said
    assert "  OUTPUT_DIR = runs/$EXPERIMENT_NAME/stage2\n      out_dir: Folder to write" in said
    assert "Any key of `sicog train --help` follows as key=value." in said
    assert said.endswith((ROOT / "training_scripts/configs/sft.yaml").read_text().rstrip().splitlines()[-1])


def test_a_default_within_a_default():
    text = (ROOT / "training_data_annotation/revise_cod.sh").read_text()
    assert [(v.name, v.default) for v in variables(text, "annotate")][-2:] == [
        ("IMAGE_DIR", "${IMAGE_FOLDER:-null}"),
        ("IMAGE_FOLDER", "null"),
    ]


def test_help_of_a_script_asks_for_no_variable(tmp_path):
    (tmp_path / "sicog").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "sicog").chmod(0o755)
    for script in SCRIPTS:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DISTRIBUTED_ARGS": "--nproc_per_node 2"}
        done = subprocess.run(
            ["bash", script, "--help"], env=environment, capture_output=True, text=True, timeout=20, check=True
        )
        assert done.stdout.split("\n")[:2] == ["script-help", str(script)] and not done.stderr


def test_a_file_that_starts_nothing_is_refused():
    with pytest.raises(ValueError, match=r"install\.sh does not start `sicog`"):
        describe(ROOT / "install.sh")


def test_the_page_of_the_curation_scripts_has_their_variables():
    folder = ROOT / "quality_evaluation"
    page = (folder / "README.md").read_text()
    for script in folder.glob("scripts/*.sh"):
        names = set(re.findall(r"\$\{([A-Z_]+):[-?]", script.read_text()))
        assert script.name in page and names >= {"RAW_DATASET", "THRESHOLD"}
        assert all(f"| `{name}` |" in page for name in names), script.name

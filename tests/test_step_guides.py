"""The commands of the guides of steps 1 and 2, as they stand there, on a small mini world."""

import json
import re
from pathlib import Path

import pytest
from test_docs import only_lacks_inputs
from test_readme import bash

from sicog.mini.teacher_server import teacher_server
from sicog.mini.write_world import MiniDataConfig, write_mini_data
from sicog.records import Example
from sicog.stages.storage import read_json, read_records

ROOT = Path(__file__).parents[1]
COUNTS = {"align": 1, "sft": 1, "warmup_captions": 4, "warmup_reasoning": 1, "unlabelled": 3, "dev": 1, "test": 1}


def commands(guide):
    """Its blocks of bash, each as one script."""
    return re.findall(r"```bash\n(.*?)```", (ROOT / guide).read_text(), re.DOTALL)


@pytest.fixture
def world(tmp_path):
    """Images and files under the names that the guides use."""
    write_mini_data(MiniDataConfig(**COUNTS), tmp_path / "images")
    for name, new in {
        "warmup_captions.json": "allava_vflan.json",
        "unlabelled_images.json": "images.json",
        "unlabelled_questions.json": "questions.json",
    }.items():
        (tmp_path / "images" / name).rename(tmp_path / new)
    rows = json.loads((tmp_path / "questions.json").read_text())
    for split in (0, 1):
        (tmp_path / f"questions_{split}.json").write_text(json.dumps(rows[split::2]))
    return tmp_path


def test_annotation(world):
    (block,) = commands("training_data_annotation/README.md")
    with teacher_server(world / "images") as url:
        done = bash(block, world, OPENAI_BASE_URL=url, OPENAI_API_KEY="none")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows: 4; to ask 4" in done.stdout and re.search(r"money: \d+\.\d\d USD", done.stdout)
    for folder in ("cod", "dd"):
        assert len(list(read_records(world / "data" / folder, Example))) == 4
        assert read_json(world / "data" / folder / "run.json")["config"]["teacher"]["endpoint"]["budget"]["usd"] == 400


def test_mixing(tmp_path):
    (block,) = commands("docs/annotation.md")
    assert len(block.splitlines()) == 2
    for line in block.splitlines():
        done = bash(f"{line} --dry-run", tmp_path)
        assert only_lacks_inputs(done) and "first:35000" in done.stdout, done.stderr


def test_sampling(tmp_path):
    """Each command as a dry run: test_scripts.py samples with both scripts, test_scripts_page.py whole sets of runs."""
    (block,) = commands("recap_scripts/README.md")
    (tmp_path / "questions_1.json").touch()
    exports, *lines = re.sub(r"\\\n\s*", "", block.replace("export TEMP", "TEMP")).splitlines()
    shown = []
    for line in lines[1:]:
        done = bash(f"{exports}\nexport {lines[0]}\n{line} --dry-run", tmp_path)
        assert only_lacks_inputs(done), done.stderr
        shown.append(done.stdout)
    *sampled, grouped = shown
    assert all(
        "temperature: 0.7" in text and "top_p: 0.9" in text and "image_folder: images" in text for text in sampled
    )
    found = [re.findall(r"^(?:input|out_dir|prompt|seed): (.*)$", text, re.M) for text in sampled]
    assert [sorted(values) for values in found] == [
        sorted(values)
        for values in (
            ("images.json", "runs/sicog/captions-paper", "paper", "0"),
            ("images.json", "runs/sicog/captions-cod-conv", "cod-conv", "1"),
            ("questions", "runs/sicog/answers-paper-0", "paper", "0"),  # here there is no questions_0.json
            ("questions_1.json", "runs/sicog/answers-paper-1", "paper", "0"),
            ("questions.json", "runs/sicog/corrupted", "direct", "0"),
        )
    ]
    assert "mirror_rotation" in sampled[-1] and "runs/sicog/answers-paper-1" in grouped


@pytest.mark.slow
def test_an_estimate(world, tiny_dir):
    block = commands("docs/generation.md")[0].split("#")[0]
    (world / "runs").mkdir()
    (world / "runs" / "perception").symlink_to(tiny_dir)
    block = block.replace("recap_scripts/", f"{ROOT}/recap_scripts/")
    small = "max_new_tokens=4 price_per_hour=3"
    done = bash(f"{block.rstrip()} {small}", world, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "trial: 3 of 3 rows" in said and "9 candidates" in said and re.search(r"[\d.e-]+ h with 1 worker", said)
    assert "at the price given" in said and not (world / "runs" / "captions").exists()

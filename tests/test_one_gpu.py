"""docs/one-gpu.md: its commands as they stand, from a folder of the user's, with the mini model's parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_readme import bash

from sicog.stages.storage import read_json

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/one-gpu.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_begins_with_what_is_installed_and_fetched() -> None:
    assert "pip install" in BLOCKS[0] and BLOCKS[0].count("hf download") == 2 and len(BLOCKS) == 7
    assert "On one GPU, with data of your own, follow [docs/one-gpu.md]" in (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_run_as_written(tmp_path: Path) -> None:
    from sicog.mini.parts_training.mini_parts import SHIPPED, unpack
    from sicog.mini.teacher_server import teacher_server
    from sicog.mini.write_world import MiniDataConfig, write_mini_data

    counts = {"align": 8, "sft": 8, "warmup_captions": 8, "warmup_reasoning": 8, "unlabelled": 12, "dev": 1, "test": 1}
    world = tmp_path / "world"
    write_mini_data(MiniDataConfig(**counts), world)
    for name in ("align.json", "sft.json"):
        (world / name).rename(tmp_path / name)
    (world / "warmup_captions.json").rename(tmp_path / "captions.json")
    (world / "warmup_reasoning.jsonl").rename(tmp_path / "reasoning.jsonl")
    questions = json.loads((world / "unlabelled_questions.json").read_text())
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    unpack(SHIPPED, tmp_path / "parts")
    (tmp_path / "parts" / "vision_tower").rename(tmp_path / "clip")
    (tmp_path / "parts" / "language_model").rename(tmp_path / "qwen2")
    (tmp_path / "images").symlink_to(world)
    # What the mini world needs beside the page's words: the scale of its model, small batches, where its images lie.
    text = "\n".join(BLOCKS[1:]).replace("GLOBAL_BATCH=32", "GLOBAL_BATCH=4")
    text = re.sub(r"(stage1-align\.sh|stage15-sft\.sh)", r"\1 model.config.scale=112 model.config.query_grid=4", text)
    text = text.replace("find images ", "find -L images -path '*unlabelled*' ")
    text = text.replace("images/0.png", "images/images/unlabelled/00000.png")
    drawn = {"TEMPERATURE": "1.3", "TOP_P": "0.98", "THRESHOLD": "0.1", "OMP_NUM_THREADS": "1"}
    with teacher_server(world) as url:
        done = bash(text, tmp_path, OPENAI_BASE_URL=url, OPENAI_API_KEY="none", **drawn)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_json(tmp_path / "runs/next/stage2/run.json")["config"]["lora"]["r"] == 64
    assert set(read_json(tmp_path / "data/curated/manifest.json")["rows_by_source"]) == {"captions", "answers"}
    assert (tmp_path / "data/kept-captions/selected/report/report.html").is_file()

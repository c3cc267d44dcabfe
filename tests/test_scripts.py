"""Every script of the project, run as a user runs it: exported variables, from another folder, on mini data.

The checkpoint is tiny and knows nothing, so its captions do not parse; what is tested is that each script runs its step
with the variables that its README shows, and that a missing one is named.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from warm_sicog import warm_sicog

from sicog.mini.teacher_server import teacher_server
from sicog.mini.write_world import MiniDataConfig, write_mini_data
from sicog.records import Candidate, CandidateSet, Example, PreferencePair, Query
from sicog.stages.storage import read_json, read_records, write_dataset

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(p.relative_to(ROOT) for p in ROOT.glob("*/**/*.sh") if ".venv" not in p.parts)
COUNTS = {"align": 4, "sft": 4, "warmup_captions": 4, "warmup_reasoning": 4, "unlabelled": 3, "dev": 1, "test": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A mini data folder whose path holds a space."""
    folder = tmp_path_factory.mktemp("a user's") / "mini data"
    write_mini_data(MiniDataConfig(**COUNTS), folder)
    return folder


@pytest.fixture
def script(tmp_path):
    """Run a script from an empty folder with exported variables; its output and exit code."""
    path = f"{warm_sicog().parent}{os.pathsep}{os.environ['PATH']}"

    def run(name, *arguments, **variables):
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in variables.items()}}
        command = ["bash", str(ROOT / name), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)

    return run


def succeeded(done):
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_a_wrapper_is_thin(path):
    text = (ROOT / path).read_text()
    assert len(text.splitlines()) <= 30
    assert "set -euo pipefail" in text
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    unwanted = r"\b(pip|apt|apt-get|sudo|env|printenv|unzip|tar)\b|set -x|CUDA_VISIBLE_DEVICES=|python3? -c"
    unwanted += "|/model_weight|/data/"
    assert not re.search(unwanted, code)


@pytest.mark.parametrize("path", [p for p in SCRIPTS if p.name not in ("launch.sh", "install.sh")], ids=str)
def test_a_missing_variable_is_named(script, path):
    done = script(
        path, EXPERIMENT_NAME="x", OUTPUT_COD_DIR="x", OUTPUT_COT_DIR="x", MODEL_NAME_OR_PATH="x", MODEL_PATH="x"
    )
    assert done.returncode != 0
    assert "DATA_PATH" in done.stderr or "ORIGINAL_" in done.stderr or "RAW_DATASET" in done.stderr


def test_annotation(script, world, tmp_path):
    revise, captions = "training_data_annotation/revise_cod.sh", world / "warmup_captions.json"
    paths = {
        "ORIGINAL_CAPTION_FILE": captions,
        "IMAGE_DIR": world,
        "OUTPUT_COD_DIR": "my cod",
        "OUTPUT_DD_DIR": "my dd",
    }
    with teacher_server(world) as url:
        teacher = {"TEACHER_MODEL": "m", "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}
        prices = "teacher.endpoint.prices={input: 2.5, output: 10}"
        estimated = script(revise, prices, "--estimate", **paths, **teacher)
        succeeded(estimated)
        assert "to ask 4" in estimated.stdout and "USD" in estimated.stdout and not list(tmp_path.iterdir())
        succeeded(script(revise, **paths, **teacher))
    annotated = tmp_path / "my cod-teacher" / "rows" / "shard-00000.jsonl"  # without a teacher: rows that have its work
    succeeded(script(revise, ORIGINAL_CAPTION_FILE=annotated, OUTPUT_COD_DIR="cod", OUTPUT_DD_DIR="dd"))
    elsewhere = {**paths, "OUTPUT_COD_DIR": "x", "OUTPUT_DD_DIR": "y"}
    refused = script(revise, **elsewhere, TEACHER_MODEL="m", OPENAI_API_KEY="")
    assert refused.returncode == 2 and "OPENAI_API_KEY is not set" in refused.stderr
    assert not (tmp_path / "x").exists()
    succeeded(
        script(
            "training_data_annotation/revise_cot.sh",
            ORIGINAL_COT_FILE=world / "warmup_reasoning.jsonl",
            OUTPUT_COT_DIR="cot",
            OUTPUT_SHORT_DIR="short",
        )
    )
    for folder in ("my cod", "my dd", "cod", "dd", "cot", "short"):
        assert len(list(read_records(tmp_path / folder, Example))) == 4


@pytest.mark.slow
def test_sampling(script, world, tiny_dir, tmp_path):
    shared = {"EXPERIMENT_NAME": "exp", "MODEL_PATH": tiny_dir, "IMAGE_FOLDER": world, "TEMPERATURE": 0.7, "TOP_P": 0.9}
    images, questions = world / "unlabelled_images.json", world / "unlabelled_questions"
    short = "max_new_tokens=6"
    succeeded(
        script("recap_scripts/recap_inference.sh", short, DATA_PATH=images, PROMPT="cod-default", BEAMS=1, **shared)
    )
    sets = list(read_records(tmp_path / "runs/exp/captions-cod-default", CandidateSet))
    assert [s.id for s in sets] == [f"unlabelled-{i:05d}" for i in range(3)]
    # A SPLIT whose file exists reads it; one whose file does not exist names the output only.
    script_name = "recap_scripts/reasoning_inference.sh"
    options = {"PROMPT": "cot-default", "SPLIT": "1", "AUGMENT_METHODS": "gaussian_blur,mask"}
    succeeded(script(script_name, short, DATA_PATH=f"{questions}.json", **options, **shared))
    sets = list(read_records(tmp_path / "runs/exp/answers-cot-default-1", CandidateSet))
    assert all(s.candidates[0].prompt.endswith("Answer the question step-by-step.") for s in sets)
    config = read_json(tmp_path / "runs/exp/answers-cot-default-1/run.json")["config"]
    assert config["corruptions"] == ["gaussian_blur", "mask"]
    (world / "unlabelled_questions_2.json").write_text(
        f"[{json.dumps(json.loads(Path(f'{questions}.json').read_text())[1])}]"
    )
    succeeded(script(script_name, short, DATA_PATH=questions, SPLIT="2", **shared))
    assert read_json(tmp_path / "runs/exp/answers-cot-default-2/manifest.json")["rows_in"] == 1
    refused = script(script_name, DATA_PATH=f"{questions}.json", PROMPT="cot-defualt", **shared)
    assert refused.returncode == 2 and "known: cot-default, default" in refused.stderr


@pytest.mark.slow
def test_dpo_from_corrupted_images(script, world, tiny_dir, tmp_path):
    """Answers to the images as they are, answers to corrupted ones (AUGMENT_METHODS), pairs of them, DPO."""
    from sicog.model import load_checkpoint

    common = {"EXPERIMENT_NAME": "exp", "IMAGE_FOLDER": world}
    asked = {"MODEL_PATH": tiny_dir, "DATA_PATH": world / "unlabelled_questions.json", "PROMPT": "direct"}
    options = ["max_new_tokens=1000", "temperature=3.0"]  # hot enough that the tiny checkpoint ends its answers
    for split, more in (
        ("clean", {}),
        ("corrupted", {"AUGMENT_METHODS": "gaussian_blur,color_jitter,mirror_rotation,mask"}),
    ):
        succeeded(script("recap_scripts/reasoning_inference.sh", *options, SPLIT=split, **asked, **more, **common))
    answers = {split: f"runs/exp/answers-direct-{split}" for split in ("clean", "corrupted")}
    made = [f"chosen={answers['clean']}", f"rejected={answers['corrupted']}", "out_dir=my pairs"]
    succeeded(script("training_scripts/launch.sh", "pair", *made))
    pairs = list(read_records(tmp_path / "my pairs", PreferencePair))
    assert pairs and all(pair.images and pair.chosen != pair.rejected for pair in pairs)
    variables = {
        "PREV_STAGE_CHECKPOINT": tiny_dir,
        "DATA_PATH": "my pairs",
        "FINETUNE_LEARNING_RATE": 1e-4,
        "FINETUNE_BATCH": 1,
        "GLOBAL_BATCH": len(pairs),
    }
    succeeded(script("training_scripts/uhdv1-dpo.sh", "epochs=3", **variables, **common))
    run_dir = tmp_path / "runs/exp/dpo"
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and lines[-1]["learning_rate"] > 0 and lines[-1]["rewards/margins"] > 0
    assert read_json(run_dir / "manifest.json")["rows_in"] == len(pairs)
    assert read_json(run_dir / "run.json")["config"]["dpo"] == {
        "beta": 0.1,
        "alpha": 1.0,
        "gamma": 1.0,
        "reference": None,
    }
    load_checkpoint(run_dir)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["captioning", "reasoning"])
def test_quality_evaluation(script, tiny_dir, tmp_path, task):
    from sicog.stages.provenance import digest_path

    style, name = {"captioning": ("dd", "recaption"), "reasoning": ("direct", "reasoning")}[task]
    common = {"style": style, "prompt": "p", "seed": 0, "finish_reason": "stop", "n_tokens": 3}
    common["checkpoint"] = digest_path(tiny_dir)
    rows = []
    for i, texts in enumerate(
        [("a red circle", "a red circle", "a red circle"), ("one", "a cat on a mat", "blue sky")]
    ):
        query = Query(id=str(i), task=task, images=("a.png",), question="What?")
        candidates = tuple(Candidate(query_id=str(i), index=k, text=text, **common) for k, text in enumerate(texts))
        rows.append(CandidateSet(id=str(i), query=query, candidates=candidates))
    raw = "candidates"
    if task == "reasoning":  # several runs, by a glob and by name, are grouped by id
        for k, folder in enumerate(("runs/a-1", "runs/a-2", "other run")):
            parts = [row.model_copy(update={"candidates": row.candidates[k : k + 1]}) for row in rows]
            write_dataset(tmp_path / folder, parts)
        raw = "runs/a-*,other run"
    else:
        write_dataset(tmp_path / "candidates", rows)
    variables = {"RAW_DATASET": raw, "MODEL_NAME_OR_PATH": tiny_dir, "OUTPUT_DIR": "out", "THRESHOLD": 0.9}
    succeeded(script(f"quality_evaluation/scripts/{name}_quality_eval.sh", **variables))  # by the encoder that ships
    assert [e.id for e in read_records(tmp_path / "out" / "selected", Example)] == ["0"]
    wrong = {**variables, "MODEL_NAME_OR_PATH": tiny_dir / "parts" / "text", "OUTPUT_DIR": "other"}
    refused = script(f"quality_evaluation/scripts/{name}_quality_eval.sh", "scorer=embedding", **wrong)
    assert refused.returncode == 2 and "was written by checkpoint" in refused.stderr

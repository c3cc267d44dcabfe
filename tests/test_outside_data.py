"""A new user's walk on data that is not the mini world's: easy-VQA, and photographs of scikit-image and scikit-learn.

The commands are those of docs/scripts.md and docs/formats.md, with the mini model's parts. What they learn means
nothing, what they read, refuse and write does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import easy_vqa
import pytest
import skimage
import sklearn
from test_readme import bash

from sicog.records import CandidateSet, PreferencePair
from sicog.stages.storage import read_json, read_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = """
export IMAGE_FOLDER=images CLIP_CKPT_DIR=clip LLM_CKPT_DIR=qwen2 OMP_NUM_THREADS=1
export GLOBAL_BATCH=12 PRETRAIN_BATCH=4 FINETUNE_BATCH=4 PRETRAIN_LEARNING_RATE=1e-3 FINETUNE_LEARNING_RATE=1e-3
export TEMPERATURE=1.3 TOP_P=0.98 THRESHOLD=0.1
parts="model.config.scale=112 model.config.query_grid=4"
"""


def commands(text: str, folder: Path) -> str:
    """Run shell text in the user's folder; what it printed."""
    done = bash(SETTINGS + text, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder: images of easy-VQA and photographs, rows of both, and the parts of a model."""
    from sicog.mini.parts_training.mini_parts import SHIPPED, unpack

    folder = tmp_path_factory.mktemp("user")
    unpack(SHIPPED, folder / "parts")
    (folder / "parts" / "vision_tower").rename(folder / "clip")
    (folder / "parts" / "language_model").rename(folder / "qwen2")
    shapes, photographs = folder / "images" / "shapes", folder / "images" / "photographs"
    shapes.mkdir(parents=True)
    photographs.mkdir()
    paths = easy_vqa.get_train_image_paths()
    asked = list(zip(*easy_vqa.get_train_questions(), strict=True))
    rows = [(question, answer, image) for question, answer, image in asked if image < 40]
    for image in sorted({image for _, _, image in rows}):
        shutil.copy(paths[image], shapes / f"{image}.png")
    for package in (Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images"):
        for file in sorted(package.iterdir()):
            if file.suffix in (".png", ".jpg"):
                shutil.copy(file, photographs)
    labelled = [{"image": f"shapes/{i}.png", "question": q, "answer": a} for q, a, i in rows if i < 8]
    (folder / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    named = {image: answer for _, answer, image in rows if answer in ("circle", "rectangle", "triangle")}
    captions = [{"file_name": f"shapes/{image}.png", "text": f"A {shape}."} for image, shape in named.items()]
    (folder / "align.json").write_text(json.dumps(captions))
    unlabelled = [
        {"id": f"q{n}", "image": f"shapes/{i}.png", "question": q} for n, (q, _, i) in enumerate(rows) if i >= 30
    ]
    (folder / "questions.json").write_text(json.dumps(unlabelled[:40]))
    seen = [{"image": f"photographs/{path.name}"} for path in sorted(photographs.iterdir())]
    (folder / "photographs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seen))
    return folder


def test_a_look_at_the_data(user: Path) -> None:
    for name in ("align.json", "sft.jsonl", "questions.json", "photographs.jsonl"):
        commands(f"sicog data check {name} --image-folder images", user)  # its exit code: every row can be used
    said = commands("sicog show-image images/photographs/china.jpg --out slices.png", user)
    assert "tokens" in said and (user / "slices.png").is_file()


def test_the_four_steps(user: Path) -> None:
    said = commands(
        """
EXPERIMENT_NAME=base DATA_PATH=align.json training_scripts/uhdv1-pretrain-qwen-stage1-align.sh $parts
EXPERIMENT_NAME=base DATA_PATH=sft.jsonl PREV_STAGE_CHECKPOINT=runs/base/stage1 \\
    training_scripts/uhdv1-finetune-qwen-stage2-sft.sh epochs=3
sicog ask runs/base/stage2 images/shapes/0.png "what color is the shape?" --samples 2
export EXPERIMENT_NAME=sicog MODEL_PATH=runs/base/stage2 PROMPT=direct
sample=recap_scripts/reasoning_inference.sh
DATA_PATH=photographs.jsonl PROMPT=paper recap_scripts/recap_inference.sh max_new_tokens=40
for seed in 0 1 2; do
    DATA_PATH=questions.json OUTPUT_DIR=runs/sicog/answers-$seed $sample max_new_tokens=12 seed=$seed
done
DATA_PATH=questions.json OUTPUT_DIR=runs/sicog/corrupted AUGMENT_METHODS=mask,gaussian_blur \\
    $sample max_new_tokens=12 seed=7
RAW_DATASET='runs/sicog/answers-*' MODEL_NAME_OR_PATH=runs/base/stage2 OUTPUT_DIR=data/kept-answers \\
    quality_evaluation/scripts/reasoning_quality_eval.sh
sicog report data/kept-answers
sicog build out_dir=data/curated 'sources=[{name: answers, path: data/kept-answers/selected}]'
EXPERIMENT_NAME=next DATA_PATH=data/curated MM_PROJECTOR_CHECKPOINT=runs/base/stage1 GLOBAL_BATCH=4 \\
    training_scripts/uhdv1-finetune-qwen-stage15-sft.sh $parts
EXPERIMENT_NAME=next DATA_PATH=sft.jsonl PREV_STAGE_CHECKPOINT=runs/next/stage15 \\
    training_scripts/uhdv1-finetune-qwen-stage2-sft.sh
""",
        user,
    )
    assert "answer:" in said
    photographs = list(read_records(user / "runs/sicog/captions-paper", CandidateSet))
    assert len(photographs) >= 17 and all(len(row.candidates) == 3 for row in photographs)
    scored = read_json(user / "data/kept-answers/scored/manifest.json")
    assert scored["rows_in"] == 40 == scored["rows_kept"] + sum(scored["dropped"].values())
    assert (user / "data/kept-answers/report/report.html").is_file()
    assert (user / "runs/next/stage2/model.safetensors").is_file()


def test_pairs_of_clean_and_corrupted_images(user: Path) -> None:
    commands("sicog pair chosen=runs/sicog/answers-0 rejected=runs/sicog/corrupted out_dir=data/pairs", user)
    pairs = list(read_records(user / "data/pairs", PreferencePair))
    assert pairs and all(pair.chosen != pair.rejected and pair.images[0].startswith("shapes/") for pair in pairs)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("sicog ask nothere images/shapes/0.png 'what shape?'", "nothere does not exist"),
        ("sicog data check align.json --image-folder imagse", "imagse does not exist"),
        ("sicog sample questions.json", "did you mean input=questions.json?"),
        ("sicog status data", "sicog report"),
        (
            "EXPERIMENT_NAME=x DATA_PATH=none.json PREV_STAGE_CHECKPOINT=runs/none "
            "training_scripts/uhdv1-finetune-qwen-stage2-sft.sh --dry-run",
            "MISSING data.path: none.json does not exist",
        ),
    ],
)
def test_mistakes_are_said_in_a_sentence(user: Path, command: str, sentence: str) -> None:
    done = bash(SETTINGS + command, user)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode in (1, 2) and sentence in said and "Traceback" not in said

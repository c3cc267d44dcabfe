"""The training scripts by the very lines of their README, on a tiny model; SLURM's commands are stand-ins on PATH."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tiny import tiny_parts
from warm_sicog import warm_sicog

from sicog.chains import COD, render
from sicog.curation.build.build import BuildConfig, build
from sicog.stages.storage import read_json

ROOT = Path(__file__).parents[1]
README = (ROOT / "training_scripts" / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
STAGES = [block for block in BLOCKS if "export EXPERIMENT_NAME" in block]
DRY, TORCHRUN, SBATCH = (next(b for b in BLOCKS if word in b) for word in ("--dry-run", "DISTRIBUTED_ARGS=", "sbatch "))
STAND_INS = ROOT / "tests" / "slurm"


def start(text, folder, **variables):
    """A bash that runs lines of the README from a folder, with sicog, torchrun and the stand-ins on PATH."""
    text = re.sub(r"(?<![\w/])training_scripts/", lambda _: f"'{ROOT}'/training_scripts/", text)
    places = [STAND_INS, warm_sicog().parent, Path(sys.executable).parent, os.environ["PATH"]]
    path = os.pathsep.join(map(str, places))
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    command = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def bash(text, folder, **variables):
    process = start(text, folder, **variables)
    output, _ = process.communicate(timeout=250)
    return process.returncode, output


def built_set(folder, rows):
    """What `sicog build` writes for other code: 128 rows, some of them chains of description as conversations."""
    turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": render(COD, ["red"] * 5)}]
    chains = [{"id": f"c{i}", "image": "0.png", "style": "cod", "conversations": turns} for i in range(64)]
    for name, some in (("captions", chains), ("answers", rows)):
        (folder / f"{name}-kept.json").write_text(json.dumps(some))
    sources = [{"name": name, "path": folder / f"{name}-kept.json", "share": 0.5} for name in ("captions", "answers")]
    config = {"sources": sources, "total": 128, "multi_turn": {"share": 0.5}, "image_folder": folder / "images"}
    out = build(BuildConfig(**config, out_dir=folder / "built", cache_dir=folder / "cache"))
    assert 16 < read_json(out / "manifest.json")["multi_turn_rows"] < 48
    return out / "llava.json"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A user's folder in which the lines of all stages have run: its data is just enough for an update of each."""
    folder = tmp_path_factory.mktemp("a user's") / "my folder"
    vision, text = tiny_parts(folder)
    vision.rename(folder / "clip")
    text.rename(folder / "qwen2")
    (folder / "images").mkdir()
    for i, size in enumerate([(60, 50), (130, 40)]):
        Image.linear_gradient("L").resize(size).save(folder / "images" / f"{i}.png")
    turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "two"}]
    rows = [{"id": str(i), "image": f"{i % 2}.png", "conversations": turns} for i in range(256)]
    (folder / "align.json").write_text(json.dumps(rows))
    for name in ("sft", "captions"):
        (folder / f"{name}.json").write_text(json.dumps(rows[:128]))
    (folder / "curated.json").write_bytes(built_set(folder, rows).read_bytes())
    pairs = [
        {"id": str(i), "image": "0.png", "prompt": "How many?", "chosen": "two", "rejected": "six"} for i in range(128)
    ]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    # What a tiny model needs beside the README's words is its scale.
    of_parts, scale = r"(stage1-align\.sh|stage15-sft\.sh)", "model.config.scale=56 model.config.query_grid=2"
    code, output = bash(re.sub(of_parts, rf"\1 {scale}", "\n".join(STAGES)), folder)
    assert code == 0, output
    return folder, output


@pytest.mark.slow
def test_the_lines_of_all_stages_run_as_written(trained):
    folder, output = trained
    expected = {
        "base/stage1": ("align", 2e-4, 256, 8),
        "next/stage15": ("pretrain", 2e-5, 128, 4),
        "next/stage2": ("sft", 2e-5, 128, 4),
        "perception/stage0": ("warmup", 2e-5, 128, 4),
        "next/dpo": ("dpo", 5e-7, 128, 2),
    }
    for name, values in expected.items():
        config = read_json(folder / "runs" / name / "run.json")["config"]
        assert tuple(config[key] for key in ("stage", "learning_rate", "global_batch", "device_batch")) == values
        assert (folder / "runs" / name / "manifest.json").is_file()
    inputs = read_json(folder / "runs/next/stage15/run.json")["input_paths"]
    assert inputs["model.projector"] == "runs/base/stage1" and inputs["data.path"] == "curated.json"
    assert "256 rows per update of 1 process(es)" in output


@pytest.mark.slow
def test_dry_runs_of_the_readme(trained):
    folder, _ = trained
    sft = STAGES[2].rsplit("training_scripts/", 1)[0]
    code, output = bash(f"{sft}\nOUTPUT_DIR=other {DRY}", folder)
    assert code == 0 and "ranks" not in output and "MISSING" not in output, output
    assert yaml.safe_load(output)["out_dir"] == "other" and not (folder / "other").exists()
    code, output = bash(sft + re.sub(r"(sft\.sh)", r"\1 --dry-run", TORCHRUN), folder)
    assert code == 0, output
    assert "node 1 of 1, ranks 0 to 7" in output and "node 2 of 2, ranks 8 to 15" in output
    assert output.count("--rdzv_endpoint node1:29500") == 2
    code, output = bash(f"{sft}\n{SBATCH.rstrip()} --dry-run", folder)
    assert code == 0 and output.count("srun sicog train") == 4 and "of 4, rank 3" in output, output


@pytest.mark.slow
def test_the_sbatch_line_trains_on_two_nodes(trained):
    """Two `nodes` of one process on this machine; the user's ACCU_STEPS makes another batch than the paper's."""
    folder, _ = trained
    sft = STAGES[2].rsplit("training_scripts/", 1)[0]
    line = SBATCH.replace("--nodes=4", "--nodes=2").rstrip()
    code, output = bash(f"{sft}\n{line}", folder, OUTPUT_DIR="on two", ACCU_STEPS="2", SECRET="do-not-print")
    assert code == 0, output
    assert read_json(folder / "on two" / "manifest.json")["samples"] == 128
    assert "4 rows a device x 2 accumulation steps x 2 process(es) = 16 rows per update" in output
    assert "the paper's sft has 128 rows per update, not 16" in output
    assert "do-not-print" not in output and not (folder / "requeued").exists()


def test_both_batches_that_disagree_are_an_error(tmp_path):
    variables = {"EXPERIMENT_NAME": "e", "DATA_PATH": "d.json", "PREV_STAGE_CHECKPOINT": "c", "FINETUNE_BATCH": "4"}
    script = "training_scripts/uhdv1-finetune-qwen-stage2-sft.sh"
    both = {"ACCU_STEPS": "2", "GLOBAL_BATCH": "128", "DISTRIBUTED_ARGS": "--nproc_per_node 8"}
    code, output = bash(f"{script} --dry-run", tmp_path, **variables, **both)
    assert code == 2 and "device_batch 4 x accumulation 2 x 8 processes = 64" in output
    both |= {"ACCU_STEPS": "", "GLOBAL_BATCH": "100"}
    code, output = bash(f"{script} packing=off --dry-run", tmp_path, **variables, **both)
    assert code == 2 and "use global_batch 96 or 128" in output


TASK = """
echo "$RANK of $WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT, local $LOCAL_RANK, with $SRUN_CPUS_PER_TASK, $1"
trap 'touch "saved $RANK"; exit 75' USR1
trap 'touch "ended $RANK"; exit 75' TERM
touch "ready $RANK"
for _ in $(seq 500); do sleep 0.02; [ ! -e fail ] || exit 3; done
"""


def job(folder):
    (folder / "task.sh").write_text(TASK)
    process = start("exec sbatch --nodes=2 training_scripts/slurm.sbatch bash task.sh 'two words'", folder)
    for rank in (0, 1):
        while not (folder / f"ready {rank}").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("event", "code", "requeued"), [("USR1", 75, True), ("TERM", 75, False), ("failure", 3, False)]
)
def test_a_job_that_saved_before_its_limit_is_queued_again(tmp_path, event, code, requeued):
    process = job(tmp_path)
    if event == "failure":
        (tmp_path / "fail").touch()
    else:
        process.send_signal(getattr(signal, f"SIG{event}"))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert (tmp_path / "requeued").exists() == requeued
    left = {"USR1": "saved", "TERM": "ended", "failure": "ready"}[event]
    assert all((tmp_path / f"{left} {rank}").exists() for rank in (0, 1))
    assert {f"{rank} of 2 at localhost:20123, local 0, with 1, two words" for rank in (0, 1)} <= set(output.split("\n"))


def test_every_variable_of_the_readme_is_read_and_every_one_read_is_in_its_table():
    table = set(re.findall(r"`([A-Z_]+)`", README.split("## Variables")[1].split("**The batch.**")[0]))
    scripts = [p.read_text() for p in sorted((ROOT / "training_scripts").glob("uhdv1-*.sh"))]
    launcher = (ROOT / "training_scripts" / "launch.sh").read_text()
    read = {name for text in [*scripts, launcher] for name in re.findall(r"\$\{([A-Z_]{4,}):", text)}
    assert table <= read
    assert read - table == {"RANK", "BASH_SOURCE", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"} & read
    for block in STAGES:
        script = (ROOT / re.search(r"training_scripts/\S+\.sh", block).group()).read_text()
        for name in re.findall(r"\b([A-Z_]{4,})=", block):
            assert f"${{{name}:" in script, name

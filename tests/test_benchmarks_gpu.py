"""The benchmark of the full-size model runs in a tiny size on a CPU, and writes what it measured."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def smoke(name, out):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smoke", "--repeats", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


def test_the_whole_model(tmp_path):
    smoke("gpu_model", tmp_path / "gpu.json")
    train = json.loads((tmp_path / "gpu-train.json").read_text())["rows"]
    assert {(r["stage"], r["views"]) for r in train} == {(s, v) for s in ("align", "pretrain, sft") for v in (1, 7)}
    for row in train:
        # On a CPU two options are not there, and each says so.
        absent = row["attention"] == "varlen" or row["head"] == "liger"
        assert bool(row["note"]) == absent and (row["step ms"] is None) == absent, row
    for stage, views in {(r["stage"], r["views"]) for r in train}:
        losses = [r["loss"] for r in train if (r["stage"], r["views"]) == (stage, views) and r["loss"] is not None]
        assert max(losses) - min(losses) < 0.05  # every option computes the same, in bfloat16
    decode = json.loads((tmp_path / "gpu-decode.json").read_text())["rows"]
    assert all(row["tokens/s"] > 0 for row in decode if not row["graph"])

"""Every CPU benchmark runs in its tiny size, where each asserts that both ways agree, and writes its table."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from warm_sicog import warm_python

ROOT = Path(__file__).parents[1]
FILES = {p.stem for p in (ROOT / "benchmarks").glob("*.py")} - {"__init__", "timing", "plain_resampler"}
NAMES = sorted(name for name in FILES if "gpu" not in name)
LONG = {"stages", "curation", "image_preparation", "loader", "packing"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly if name in LONG else ()) for name in NAMES]
)
def test_a_benchmark_runs_and_both_ways_agree(tmp_path, name):
    out = tmp_path / "result.json"
    command = [warm_python(), "-m", f"benchmarks.{name}", "--smoke", "--repeats", "1", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["rows"] and result["hardware"]["cpu"] and result["versions"]["torch"]


def test_the_makefile_runs_them_all():
    """Those with gpu in their name are for a CUDA device, and only smoke-tested here."""
    rule = (ROOT / "Makefile").read_text().split("\nbench:", 1)[1].split("\n\n", 1)[0]
    assert "$(BENCHMARKS)" in rule and {"image_preparation", "resampler", "vision_tower"} <= set(NAMES)

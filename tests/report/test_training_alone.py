"""`sicog report` of the folder of one training: its loss curve and speeds, finished or not."""

import orjson
import pytest
from typer.testing import CliRunner

from sicog import cli
from sicog.report.discover import report_run
from sicog.stages.storage import read_json, write_json


@pytest.fixture
def run_dir(tmp_path):
    """What `sicog train` has written after 60 updates."""
    folder = tmp_path / "a stage"
    folder.mkdir()
    metrics = [{"step": i, "loss": 3 - i / 30} for i in range(1, 61)]
    fast = {"seconds": 0.5, "samples_per_second": 16.0, "tokens_per_second": 4321.0, "useful_tokens": 0.875}
    speeds = [{"step": i, **fast, "mfu": None, "memory_gib": 1 + i / 60} for i in range(1, 61)]
    for name, rows in (("metrics", metrics), ("speed", speeds)):
        (folder / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return folder


def test_an_unfinished_training_shows_its_curve_and_speeds(run_dir):
    done = CliRunner().invoke(cli.app, ["report", str(run_dir)])
    assert done.exit_code == 0, done.output
    results = read_json(run_dir / "report" / "results.json")
    assert results["training"][0]["updates"] == 60 and results["training"][0]["last"] == pytest.approx(1.0333, abs=0.01)
    page = " ".join((run_dir / "report" / "report.html").read_text().split())
    assert "Training a stage" in page and "loss of a stage by update" in page
    assert "16.0 samples/s, 4,321 tokens/s, 88 % of the positions useful; at most 2.0 GiB" in page


def test_it_is_made_anew_and_knows_the_utilisation_of_a_known_device(run_dir):
    report_run(run_dir)
    lines = [orjson.loads(line) for line in (run_dir / "speed.jsonl").read_bytes().splitlines()]
    (run_dir / "speed.jsonl").write_bytes(b"".join(orjson.dumps({**line, "mfu": 0.41}) + b"\n" for line in lines))
    write_json(run_dir / "manifest.json", {"stage": "sft", "samples": 480})
    page = (report_run(run_dir) / "report.html").read_text()
    assert "utilisation 41 %" in page and "480 samples" in page

"""The commands of docs/curation.md that score and look, run as they stand but for the encoder that is not here.

Those that build are run by test_build_set.py.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_endpoint import Endpoint, serving
from typer.testing import CliRunner

from sicog.cli import app
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.curation.vectors.find_encoder import encoder_folder
from sicog.records import ScoredSet
from sicog.stages.storage import read_json, read_records, write_dataset

PAGE = (Path(__file__).parents[2] / "docs" / "curation.md").read_text()
TEXTS = ["A red cup on a table.", "A red cup on the table.", "Dogs run in the snow."]


def run(line: str) -> str:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "sicog"
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def folder(tmp_path, make, monkeypatch):
    """Where the commands run: candidates in runs/captions, their vectors in vectors.parquet."""
    rows = [make.candidate_set(str(i), "captioning", [("dd", t) for t in TEXTS]) for i in range(2)]
    write_dataset(tmp_path / "runs" / "captions", rows)
    vectors = np.eye(3, 4) + 0.5
    pq.write_table(pa.table({"text": TEXTS, "vector": vectors.tolist()}), tmp_path / "vectors.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SICOG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    return tmp_path


@pytest.mark.slow
def test_the_lines_that_score_and_the_one_that_looks(folder):
    (block,) = re.findall(r"```bash\n(sicog score.*?)```", PAGE, re.DOTALL)
    here, there, served, given = block.splitlines()
    encoders = {}
    with serving(
        Endpoint(lambda body: "", vector=lambda text: [float(len(text)), 1.0, float(len(text) % 7)])
    ) as endpoint:
        lines = {
            "here": here,
            # The settings of that model on files that are here.
            "there": there.replace(
                "encoder.name=Qwen/Qwen3-Embedding-0.6B",
                f"encoder.name='{encoder_folder(EncoderConfig().name)}' encoder.preset=Qwen/Qwen3-Embedding-0.6B",
            ),
            "served": re.sub(r"base_url=\S+", f"base_url={endpoint.url}", served),
            "given": given,
        }
        for name, line in lines.items():
            run(line.replace("runs/scored", f"runs/{name}"))
            rows = list(read_records(folder / "runs" / name, ScoredSet))
            assert len(rows) == 2 and all(c.score is not None for row in rows for c in row.candidates)
            encoders[name] = rows[0].encoder
        asked = [text for body in endpoint.bodies for text in body["input"]]
    assert "bfloat16, left padding" in encoders["there"] and encoders["given"].startswith("file:vectors.parquet@")
    assert sorted(asked) == sorted(f"{text}</s>" for text in TEXTS) and "NV-Embed-v2" in encoders["served"]
    (look,) = re.findall(r"`(sicog thresholds .*?)`", PAGE)
    said = run(look.replace("OUT/scored", "runs/here") + " out=table.json")
    assert "threshold at 3" in said and read_json(folder / "table.json")["rows"] == 2

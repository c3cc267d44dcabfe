"""assumed.py: figures of `make gpu-proof` replace what is assumed, but not what is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sicog.estimates.arithmetic.assumed import A100_TFLOPS, UTILISATION, Assumed
from sicog.estimates.recipes import _notes

PLAN = {"tflops": 989.0, "utilisation": 0.41, "bandwidth": 4.8, "decode_share": 0.47}


def written(folder: Path, plan: Any) -> Path:
    path = folder / "gpu-proof.json"
    path.write_text(json.dumps({"plan": plan, "hardware": {"gpu": "NVIDIA H200"}, "date": "2026-12-02"}))
    return path


def test_measured_figures_replace_the_defaults_only(tmp_path: Path) -> None:
    path = written(tmp_path, PLAN)
    assumed = Assumed.model_validate({"measured": path})
    assert {name: getattr(assumed, name) for name in PLAN} == PLAN
    given = Assumed.model_validate({"measured": path, "utilisation": 0.3, "image": "none"})
    assert (given.utilisation, given.tflops, given.image) == (0.3, 989, "none")
    assert given.device == "NVIDIA H200, 2026-12-02"


def test_without_a_file_or_its_figures_all_is_assumed(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", written(tmp_path, {})):
        assumed = Assumed.model_validate({"measured": path})
        assert (assumed.tflops, assumed.utilisation, assumed.device) == (A100_TFLOPS, UTILISATION, "")


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"plan": {"tflops": "fast"}}', '{"plan": null}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gpu-proof.json"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"gpu-proof.json is not what `make gpu-proof` writes.*Run it again, or remove"
    ):
        Assumed.model_validate({"measured": path})


def test_the_file_lies_where_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    written(tmp_path / "runs", PLAN)
    assert Assumed().utilisation == 0.41
    makefile = (Path(__file__).parents[3] / "Makefile").read_text()
    assert "benchmarks.gpu_proof --out runs/gpu-proof.json" in makefile


def test_a_plan_says_what_was_measured(tmp_path: Path) -> None:
    class Planned:
        assume = Assumed.model_validate({"measured": written(tmp_path, PLAN)})

    notes = "\n".join(_notes(Planned()))  # type: ignore[arg-type]
    assert "rates and shares were measured on NVIDIA H200, 2026-12-02" in notes and "989 TFLOP/s x 0.41" in notes

"""Training on packed rows: the losses of padded ones on the same updates, resume, and what the config refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sicog.config import load_config
from sicog.model import SicogConfig
from sicog.model.lengths import RowLengths
from sicog.stages.storage import read_json
from sicog.training.config import TrainConfig
from sicog.training.train import train
from sicog.training.updates import check_divides, pack_limits, plan_updates, remember_plan

MakeConfig = Callable[..., TrainConfig]


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_packed_steps_give_the_losses_of_padded_ones(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same rows in each update, in one micro-batch and in several; some updates mix text only and image rows."""
    off = train(config(out_dir=tmp_path / "off"))
    for name, limits in {"one": {}, "several": {"pack_tokens": 150}}.items():
        run_dir = train(config(out_dir=tmp_path / name, packing="step", **limits))
        lines, wanted = metrics(run_dir), metrics(off)
        assert [line["samples"] for line in lines] == [line["samples"] for line in wanted]
        assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in wanted], abs=1e-4)
        assert [line["grad_norm"] for line in lines] == pytest.approx([x["grad_norm"] for x in wanted], rel=1e-3)
        weights, other = (load_file(run / "model.safetensors") for run in (off, run_dir))
        assert all(torch.allclose(weights[k], other[k], atol=2e-4) for k in weights)
        said = re.search(r"6 updates of (\d+) packed micro-batch", capsys.readouterr().err)
        assert said is not None and (int(said[1]) > 1) == (name == "several")


@pytest.mark.parametrize("packing", ["step", "epoch"])
def test_a_packed_run_resumes_from_its_checkpoint(config: MakeConfig, tmp_path: Path, packing: str) -> None:
    settings = {"packing": packing, "pack_tokens": 150, "save_steps": 2, "keep_checkpoints": True}
    whole = train(config(out_dir=tmp_path / "whole", save_total_limit=9, **settings))
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    for path in ("manifest.json", "model.safetensors", *(c.name for c in again.glob("checkpoint-*"))):
        if path != "checkpoint-2":
            shutil.rmtree(again / path) if (again / path).is_dir() else (again / path).unlink()
    train(config(out_dir=again, save_total_limit=9, **settings))
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert read_json(again / "manifest.json")["files"] == read_json(whole / "manifest.json")["files"]


def test_a_packed_epoch_sees_every_row_once(config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = train(config(packing="epoch", pack_tokens=200, epochs=1, global_batch=1, gradient_checkpointing="full"))
    said = capsys.readouterr().err
    assert "rows an update on average" in said and "pack_views would be closer to global_batch 1" in said
    manifest = read_json(run_dir / "manifest.json")
    assert manifest["samples"] == manifest["rows_out"] == 24 and metrics(run_dir)[-1]["epoch"] == 1


def test_limits_by_default_and_by_name(config: MakeConfig) -> None:
    lengths = RowLengths(*(np.array(x, dtype=np.int32) for x in ([50, 60], [1, 1], [3, 40], [10, 20])))
    limits = pack_limits(config(packing="step", device_batch=4, max_length=100), lengths)
    assert (limits.tokens, limits.views) == (400, 40)  # the largest row is above 4 x 8
    limits = pack_limits(config(packing="step", device_batch=8), lengths)
    assert (limits.tokens, limits.views) == (8 * 4096, 64)
    limits = pack_limits(config(packing="epoch", pack_tokens=99, pack_views=55), lengths)
    assert (limits.tokens, limits.views) == (99, 55)


def test_what_does_not_go_with_packing(config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="packed rows have none"):
        config(packing="step", group_by_length=True)
    with pytest.raises(ValueError, match="need packing step or epoch"):
        config(pack_tokens=100)
    with pytest.raises(ValueError, match="packing"):
        config(packing="on")


def test_yaml_reads_a_bare_off(config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(config().model_dump_json().replace('"packing":"off"', '"packing": off'))
    assert load_config(TrainConfig, tmp_path / "a.yaml").packing == "off"
    assert load_config(TrainConfig, tmp_path / "a.yaml", ["packing=step"]).packing == "step"


def test_packing_needs_no_batch_that_divides(config: MakeConfig) -> None:
    """Only the rows of an update are given; `accumulation` counts rows and says nothing of micro-batches."""
    assert config(packing="step", global_batch=10, device_batch=4).rows_per_update(3) == 10
    exported = config(packing="step", global_batch=None, device_batch=4, accumulation=2)
    assert exported.rows_per_update(3) == 24


def test_a_packed_epoch_is_the_same_on_another_number_of_processes(config: MakeConfig, tiny_dir: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 200, 300).astype(np.int32)
    lengths = RowLengths(tokens, tokens // 2, *(np.zeros(300, dtype=np.int32) for _ in range(2)))
    settings = config(packing="epoch", pack_tokens=400, global_batch=16)
    settings.out_dir.mkdir()
    model = SicogConfig.from_pretrained(tiny_dir)
    first = plan_updates(settings, lengths, model, 4)
    remember_plan(settings, first)
    for processes in (1, 2):
        again = plan_updates(settings, lengths, model, processes)
        assert again.accumulation * processes == first.accumulation * 4
        assert np.array_equal(again.rows, first.rows) and np.array_equal(again.step_borders, first.step_borders)
    with pytest.raises(ValueError, match="do not divide among 3 processes"):
        plan_updates(settings, lengths, model, 3)
    check_divides(settings, 2)
    with pytest.raises(ValueError, match="do not divide among 3 processes"):  # before `sicog reshard` changes anything
        check_divides(settings, 3)
    with pytest.raises(ValueError, match="smaller than the 17 processes"):
        check_divides(settings.model_copy(update={"packing": "step"}), 17)
    # What may change when a run goes on changes nothing.
    other = settings.model_copy(update={"gradient_checkpointing": "full"})
    assert np.array_equal(plan_updates(other, lengths, model, 4).borders, first.borders)

"""The dry run of a stage: what it says of a run, of what is missing, and that it writes nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from preference_pairs import dpo_values
from safetensors.torch import load_file
from typer.testing import CliRunner

from sicog import cli
from sicog.estimates.arithmetic.assumed import Assumed
from sicog.estimates.arithmetic.flops import training_flops
from sicog.estimates.arithmetic.memory import activations, states
from sicog.estimates.arithmetic.readable import duration
from sicog.estimates.resources import heaviest
from sicog.estimates.shapes import read_shapes
from sicog.estimates.training import plan_lines, sample_rows
from sicog.training.config import TrainConfig
from sicog.training.load import load_model

MakeConfig = Callable[..., TrainConfig]


def lines(config: TrainConfig, assumed: Assumed = Assumed(), **environment: str) -> str:
    return "\n".join(plan_lines(config, ["train", "c.yaml"], environment, assumed).lines)


def test_the_plan_of_a_run(config: MakeConfig, tiny_dir: Path, tmp_path: Path) -> None:
    settings = config(max_length=512, gradient_checkpointing="full")
    before = sorted(tmp_path.rglob("*"))
    plan = lines(settings, Assumed(tflops=1e-3, utilisation=0.5), DISTRIBUTED_ARGS="--nproc_per_node 2")
    assert "ranks 0 to 1: torchrun --nnodes=1 --nproc_per_node=2 -m sicog train c.yaml" in plan
    assert "4 rows a device x 1 accumulation steps x 2 process(es) = 8 rows per update" in plan
    assert "rows: 24; of 24 conversations looked at 0 cannot be used" in plan and "6 updates of 8 rows" in plan
    model, _ = read_shapes(settings.model)
    work = heaviest(settings, model)
    assert work.positions == 4 * 512 and len(work.views) == 4 * 5
    states_2 = states(model, settings.trainable, zero_stage=2, devices=2).total
    kept = sum(activations(model, work, settings.trainable, checkpointing="full").values())
    assert f"ZeRO-2 {(states_2 + kept) / 2**30:.1f}" in plan
    # Of all 24 rows, each twice: the very FLOPs; at 2 x 10^9 x 0.5 a second.
    figure, power = re.search(r"rows, (\S+) x 10\^(\d+) FLOP", plan).groups()  # type: ignore[union-attr]
    total = float(figure) * 10 ** int(power)
    assert f"{duration(total / 1e9)} on 2 device(s) of 0.001 TFLOP/s, of which 50 % are used" in plan
    assert "whatever this machine has" not in plan
    one = sum(training_flops(model, work, settings.trainable).values())
    assert 0 < total < 48 * one
    assert sorted(tmp_path.rglob("*")) == before


def test_assumptions_are_said(config: MakeConfig) -> None:
    plan = lines(config())
    assert "less than a second on 1 device(s) of 312 TFLOP/s, of which 45 % are used" in plan
    assert "computed for these assumed figures of an A100, whatever this machine has" in plan


def test_fewer_rows_than_an_update_are_said(config: MakeConfig) -> None:
    plan = lines(config(global_batch=32))
    assert "TOO FEW ROWS: 24, and an update has 32" in plan and "time:" not in plan


def test_what_is_missing_is_named(config: MakeConfig, tiny_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    plan = lines(config(data={"path": tmp_path / "no.json", "image_folder": tmp_path / "none"}))
    assert f"MISSING data.path: {tmp_path / 'no.json'}" in plan and "MISSING data.image_folder" in plan
    assert "ZeRO-2" in plan and "time: not known" in plan  # the model is there: its memory is known
    plan = lines(config(model={"checkpoint": tmp_path / "gone"}))
    assert "MISSING model.checkpoint" in plan and "ZeRO" not in plan
    mixture = tmp_path / "mix.yaml"
    assert f"MISSING data.path: {mixture}" in lines(config(data={"path": mixture}))
    mixture.write_text(yaml.safe_dump({"sources": [{"path": str(data_dir / "rows")}, {"path": "nowhere.json"}]}))
    assert "MISSING data.path.1: nowhere.json" in lines(config(data={"path": mixture}))


def test_shapes_are_read_without_weights(config: MakeConfig, tiny_dir: Path, tmp_path: Path) -> None:
    parts = {"vision_tower": tiny_dir / "parts" / "vision", "language_model": tiny_dir / "parts" / "text"}
    settings = config(stage="align", model={**parts, "config": {"scale": 56, "query_grid": 2}})
    whole, _ = load_model(settings.model)
    for name, folder in parts.items():
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
    bare = {name: tmp_path / name for name in parts}
    found, processor = read_shapes(config(stage="align", model={**bare, "config": settings.model.config}).model)
    assert processor.query_grid == 2 and load_file(tiny_dir / "model.safetensors")
    for name in ("image_token_id", "row_separator_id", "query_grid", "scale"):
        assert getattr(found, name) == getattr(whole.config, name)


def test_a_planned_model_that_is_nowhere_is_not_looked_for_on_the_hub(config: MakeConfig, tiny_dir: Path) -> None:
    parts = {"vision_tower": tiny_dir / "parts" / "vision", "language_model": "nobody/nothing"}
    with pytest.raises(ValueError, match="model.language_model"):
        read_shapes(config(stage="align", model={**parts, "config": {"scale": 56, "query_grid": 2}}).model)


def test_rows_are_drawn_from_all_and_the_users_cache_is_left_alone(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"id": str(i), "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "x" * (i // 30)}]}
        for i in range(3000)  # sorted by length
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("SICOG_CACHE", str(tmp_path / "cache"))
    settings = config(data={"sources": [{"path": tmp_path / "a.jsonl", "take": "random:50%"}]})
    n, known, unusable = sample_rows(settings, read_shapes(settings.model)[1])
    assert (n, len(known), unusable) == (1500, 512, 0) and not (tmp_path / "cache").exists()
    assert known.tokens.max() - known.tokens.min() > 15  # a byte-pair tokenizer makes fewer tokens of long runs


def test_the_command_prints_yaml_under_the_plan(config: MakeConfig, tmp_path: Path) -> None:
    settings = config().model_dump(mode="json")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    done = CliRunner().invoke(cli.app, ["train", str(tmp_path / "c.yaml"), "max_steps=3", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.stdout) == {**settings, "max_steps": 3}
    assert "# batch: " in done.stdout and "max_steps=3\n" in done.stdout and not (tmp_path / "run").exists()


def test_a_missing_input_is_exit_code_1(config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config().model_dump(mode="json")))
    done = CliRunner().invoke(cli.app, ["train", str(tmp_path / "c.yaml"), "data.image_folder=imagse", "--dry-run"])
    assert done.exit_code == 1 and "# MISSING data.image_folder: imagse does not exist" in done.stdout


@pytest.mark.parametrize("options", [["--device-tflops", "0"], ["--utilisation", "1.5"]])
def test_rates_that_cannot_be_are_refused(config: MakeConfig, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config().model_dump(mode="json")))
    done = CliRunner().invoke(cli.app, ["train", str(tmp_path / "c.yaml"), "--dry-run", *options])
    assert isinstance(done.exception, ValueError) and "utilisation above 0" in str(done.exception)


def test_a_row_of_dpo_is_two_conversations(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    pairs = config(**dpo_values(data_dir, tmp_path / "pairs"), max_length=512)
    plan = lines(pairs)
    assert "rows: 12; of 24 conversations looked at 0 cannot be used" in plan and "3 updates of 4 rows" in plan
    model, _ = read_shapes(pairs.model)
    assert heaviest(pairs, model).positions == 2 * 2 * 512
    assert not (tmp_path / "run").exists()
    assert "WARNING" not in lines(pairs.model_copy(update={"accumulation": 2, "global_batch": None}))

"""resources.py: a training's dry run and the plan of its recipe give the same hours and the same memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sicog.estimates.costs import Cost, cost_of
from sicog.estimates.counts import Counts
from sicog.estimates.resources import memory_of, sharing_of
from sicog.estimates.shapes import Shapes, read_shapes
from sicog.estimates.training import plan_lines, sample_rows
from sicog.records import Example, Turn
from sicog.runs.recipe import Recipe, load_recipe
from sicog.stages.storage import write_dataset
from sicog.training.config import TrainConfig

N_ROWS, DEVICES = 30, 2
TIME = re.compile(r"about ([\d,.]+) hours on 2 device")


def planned(tmp_path: Path, tiny_dir: Path, **changes: Any) -> tuple[Recipe, TrainConfig]:
    """A recipe with one training, on rows of text that are all alike, and the training's config."""
    turns = (Turn(role="user", text="How many?"), Turn(role="assistant", text="Three red circles."))
    rows = [Example(id=str(i), turns=turns) for i in range(N_ROWS)]
    write_dataset(tmp_path / "rows", rows)
    values = {"stage": "sft", "model": {"checkpoint": str(tiny_dir)}, "data": {"path": str(tmp_path / "rows")}}
    values |= {"learning_rate": 1e-3, "global_batch": 8, "device_batch": 4, "max_length": 4096, **changes}
    steps = {"model": {"run": "train", "config": values}}
    launcher = {"on": "torchrun", "processes": DEVICES}
    # So slow a device that hours are printed with many digits.
    recipe = {"run_dir": str(tmp_path / "run"), "launcher": launcher, "assume": {"tflops": 2e-10}, "steps": steps}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    first = load_recipe(tmp_path / "r.yaml").steps[0].config
    assert isinstance(first, TrainConfig)
    _, lengths, _ = sample_rows(first, read_shapes(first.model)[1])
    answer = int(lengths.supervised[0])
    recipe["assume"] |= {"image": "none", "answer_tokens": answer, "prompt_tokens": int(lengths.tokens[0]) - answer}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    return load_recipe(tmp_path / "r.yaml"), first


def cost_in(recipe: Recipe) -> Cost:
    (step,) = recipe.steps
    cost = cost_of(step, Counts(recipe).of(step).given, Shapes(recipe))
    assert cost is not None and cost.devices == DEVICES
    return cost


@pytest.mark.parametrize(
    ("changes", "updates"),
    [
        ({}, 4),  # of 8 rows, the last one filled up: 32 rows, not 30
        ({"epochs": 1.5}, 6),
        ({"max_steps": 3}, 3),
        ({"gradient_checkpointing": "full"}, 4),
        ({"gradient_checkpointing": "selective", "trainable": ["projector", "language_model"]}, 4),
    ],
)
def test_both_plans_give_the_same_hours(tmp_path: Path, tiny_dir: Path, changes: dict[str, Any], updates: int) -> None:
    recipe, config = planned(tmp_path, tiny_dir, **changes)
    plan = plan_lines(config, ["train"], {"DISTRIBUTED_ARGS": f"--nproc_per_node {DEVICES}"}, recipe.assume)
    time = "\n".join(plan.lines)
    assert f"{updates} updates of 8 rows" in time
    found = TIME.search(time)
    assert found is not None
    of_each_device = float(found[1].replace(",", ""))
    assert of_each_device > 100
    assert cost_in(recipe).hours / DEVICES == pytest.approx(of_each_device, abs=0.051)


def test_full_checkpointing_takes_more_time_in_both_plans(tmp_path: Path, tiny_dir: Path) -> None:
    hours = [cost_in(planned(tmp_path / level, tiny_dir, gradient_checkpointing=level)[0]).hours
             for level in ("none", "selective", "full")]  # fmt: skip
    assert hours[0] == hours[1] and 1.05 < hours[2] / hours[0] < 4 / 3


@pytest.mark.parametrize(
    ("parallel", "sharing"),
    [("auto", "ZeRO-2"), ("ddp", "no DeepSpeed"), ("zero2", "ZeRO-2"), ("zero3", "ZeRO-3"), ("fsdp", "FSDP")],
)
def test_both_plans_give_the_same_memory(tmp_path: Path, tiny_dir: Path, parallel: str, sharing: str) -> None:
    recipe, config = planned(tmp_path, tiny_dir, parallel=parallel, device_batch=256, global_batch=512)
    plan = plan_lines(config, ["train"], {"DISTRIBUTED_ARGS": f"--nproc_per_node {DEVICES}"}, recipe.assume)
    (memory,) = [line for line in plan.lines if line.startswith("memory:")]
    gib = cost_in(recipe).memory / 2**30
    assert gib > 1 and f"{sharing} {gib:.1f}" in memory


def test_sharing_divides_what_stays(tmp_path: Path, tiny_dir: Path) -> None:
    _, config = planned(tmp_path, tiny_dir)
    model, _ = read_shapes(config.model)
    states = memory_of(config, model, 2).states
    assert states["FSDP"].total == states["no DeepSpeed"].total / 2
    assert states["ZeRO-3"].total == states["ZeRO-0"].total / 2
    assert [sharing_of(config, n) for n in (1, 2)] == ["no DeepSpeed", "ZeRO-2"]
    assert {sharing_of(config.model_copy(update={"parallel": p}), 2) for p in ("ddp", "zero2", "zero3", "fsdp")} == {
        "no DeepSpeed", "ZeRO-2", "ZeRO-3", "FSDP"
    }  # fmt: skip


def test_a_batch_that_does_not_agree_leaves_the_cost_open(tmp_path: Path, tiny_dir: Path) -> None:
    recipe, _ = planned(tmp_path, tiny_dir, global_batch=9)
    (step,) = recipe.steps
    assert cost_of(step, Counts(recipe).of(step).given, Shapes(recipe)) is None

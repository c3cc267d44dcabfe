"""What a run writes of itself beside metrics.jsonl: speeds, TensorBoard, other trackers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from sicog.training.config import TrainConfig
from sicog.training.train import train

MakeConfig = Callable[..., TrainConfig]


def test_speeds_tensorboard_and_another_tracker(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[dict[str, Any]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            logged.append(dict(logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "stand-in", Tracker)
    run_dir = train(config(report_to=["stand-in"], tensorboard=True, epochs=1))
    losses = [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [log["loss"] for log in logged if "loss" in log] == losses and len(losses) == 3
    speeds = [json.loads(line) for line in (run_dir / "speed.jsonl").read_text().splitlines()]
    for line in speeds:
        assert 0 < line["useful_tokens"] < 1 and line["tokens_per_second"] > line["samples_per_second"] > 0
        assert line["memory_gib"] > 0.05 and line["mfu"] is None  # no utilisation of a CPU
    for done, line in enumerate(speeds, start=1):  # rounded to a tenth of a second
        took = sum(earlier["seconds"] for earlier in speeds[:done])
        assert line["seconds_left"] == pytest.approx(took / done * (3 - done), abs=0.06)
    assert list((run_dir / "tensorboard").glob("events.*"))
    shown = capsys.readouterr().err
    assert "update 3/3" in shown and "% useful" in shown and "0:00:00 left" in shown and "GiB" in shown
    assert shown.index("language_model") < shown.index("8 rows per update") < shown.index("update 1/3")


def test_an_unknown_tracker_is_named(config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="wandbb is not supported"):
        train(config(report_to=["wandbb"]))

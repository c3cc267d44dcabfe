"""A run is never lost: kills, stop signals, full disks, too little memory."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerState
from warm_sicog import warm_python

from sicog.data.batching import RunPlan
from sicog.model import SicogForConditionalGeneration, load_checkpoint
from sicog.model.lengths import RowLengths
from sicog.training import run_checkpoints
from sicog.training import train as training
from sicog.training.config import TrainConfig
from sicog.training.memory_check import heaviest_micro_batch
from sicog.training.save_times import SaveTimes
from sicog.training.signals import SaveAndStop
from sicog.training.train import train

MakeConfig = Callable[..., TrainConfig]
RESULTS = ("metrics.jsonl", "model.safetensors", "manifest.json")


def assert_same(run: Path, other: Path) -> None:
    for name in RESULTS:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture
def undisturbed(config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(out_dir=tmp_path_factory.getbasetemp() / "undisturbed"))  # finished, it returns at once


def test_a_stop_signal_saves_and_the_run_resumes_bit_for_bit(
    config: MakeConfig, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    step = Trainer.training_step
    seen: list[int] = []

    def training_step(self: Trainer, *args: Any) -> torch.Tensor:
        seen.append(self.state.global_step)
        if len(seen) == 5:  # the first of two micro-batches of the third update
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Trainer, "training_step", training_step)
    with pytest.raises(SystemExit) as stopped:
        train(config())
    assert stopped.value.code == 75 and signal.getsignal(signal.SIGTERM) == before
    run_dir = tmp_path / "run"
    newest = run_checkpoints.newest_complete(run_dir)
    assert newest is not None and newest.name == "checkpoint-3"  # not of save_steps, which is 2
    assert not (run_dir / "manifest.json").exists()
    shown = capfd.readouterr().err
    assert "SIGTERM: stopping after this update" in shown and "stopped after update 3 of 6 and saved" in shown
    load_checkpoint(newest)
    assert_same(train(config()), undisturbed)


def test_a_second_key_press_ends_at_once_and_one_passed_on_twice_does_not() -> None:
    stop = SaveAndStop(SaveTimes(9, 9, 30.0))
    with stop.catch_signals():
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        signal.raise_signal(signal.SIGTERM)
        stop.at -= 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("method", ["load_rows", "_save_final"])
def test_the_time_limits_signal_outside_the_updates_means_run_again(
    config: MakeConfig, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """SLURM's job is queued again on code 75 alone, and measuring or saving may be what the limit meets."""
    before = signal.getsignal(signal.SIGUSR1)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(training, method, lambda *_: signal.raise_signal(signal.SIGUSR1))
        train(config())
    assert stopped.value.code == 75 and signal.getsignal(signal.SIGUSR1) == before
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert_same(train(config()), undisturbed)


def test_a_signal_in_the_last_update_lets_the_run_finish(
    config: MakeConfig, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.training_step

    def training_step(self: Trainer, *args: Any) -> torch.Tensor:
        if self.state.global_step == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(self, *args)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    assert_same(train(config()), undisturbed)


def at_the_second(calls: list[int], method: Callable[..., Any], instead: Callable[[], None]) -> Callable[..., Any]:
    """The method, and before its second call something else."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            instead()
        return method(*args, **kwargs)

    return wrapped


class Died(BaseException):
    """Ends everything where it is raised, as a kill does."""


@pytest.mark.parametrize("where", ["before the weights", "half of the weights", "state", "marker"])
def test_died_in_a_save_and_resumed_bit_for_bit(
    config: MakeConfig, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    settings = config()
    place: tuple[Any, str] = {
        "before the weights": (Trainer, "save_model"),
        "half of the weights": (Trainer, "_save_optimizer_and_scheduler"),
        "state": (TrainerState, "save_to_json"),
        "marker": (run_checkpoints, "mark_complete"),
    }[where]

    def die() -> None:
        if where == "half of the weights":
            os.truncate(settings.out_dir / "checkpoint-4" / "model.safetensors", 1000)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(*place, at_the_second([], getattr(*place), die))
        with pytest.raises(Died):
            train(settings)
    assert not (settings.out_dir / "manifest.json").exists()
    newest = run_checkpoints.newest_complete(settings.out_dir)
    assert newest is not None and newest.name == "checkpoint-2"
    assert (newest / "model.safetensors").stat().st_mode & 0o777 == 0o644  # a colleague's job may read it
    assert_same(train(settings), undisturbed)


TOLD_ON_ONE_RANK = """
import os, signal, sys
from transformers import Trainer
from sicog.training.config import TrainConfig
from sicog.training.train import train

step = Trainer.training_step

def training_step(self, *args):
    if os.environ["RANK"] == "1" and self.state.global_step == 2:
        os.kill(os.getpid(), signal.SIGUSR1)
    return step(self, *args)

Trainer.training_step = training_step
config = TrainConfig.model_validate_json(open(sys.argv[1]).read())
try:
    train(config)
except SystemExit as stopped:
    (config.out_dir / f"code-{os.environ['RANK']}").write_text(str(stopped.code))
    raise
"""


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_after_the_same_update(config: MakeConfig, tmp_path: Path) -> None:
    settings = config(device_batch=2, save_steps=50)
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    (tmp_path / "told.py").write_text(TOLD_ON_ONE_RANK)
    launcher = [warm_python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, str(tmp_path / "told.py"), str(tmp_path / "config.json")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert ended.returncode == 1, ended.stderr[-2000:]  # torchrun's own code, whatever the processes' is
    assert [(settings.out_dir / f"code-{rank}").read_text() for rank in (0, 1)] == ["75", "75"]
    newest = run_checkpoints.newest_complete(settings.out_dir)
    assert newest is not None and newest.name == "checkpoint-3"
    assert ended.stderr.count("stopped after update 3 of 6 and saved") == 1


KILLED = """
import os, signal, sys
from sicog.training.config import TrainConfig
from sicog.training.train import train
import transformers.modeling_utils as library

config, write, calls = TrainConfig.model_validate_json(sys.argv[1]), library.safe_save_file, []

def save(tensors, file, **kwargs):  # killed with half of the second checkpoint's weights on the disk
    write(tensors, file, **kwargs)
    calls.append(1)
    if len(calls) == 2:
        os.truncate(file, 100_000)
        os.kill(os.getpid(), signal.SIGKILL)

library.safe_save_file = save
train(config)
"""


@pytest.mark.slow
def test_killed_in_a_save_and_resumed_bit_for_bit(config: MakeConfig, undisturbed: Path) -> None:
    settings = config()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [warm_python(), "-c", KILLED, settings.model_dump_json()]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert killed.returncode == 128 + signal.SIGKILL, killed.stderr[-2000:]
    assert (settings.out_dir / "checkpoint-4" / "model.safetensors").stat().st_size == 100_000
    assert_same(train(settings), undisturbed)


@pytest.mark.parametrize("limit", [100_000, 400_000])
def test_a_full_disk_is_one_clear_sentence_and_the_old_checkpoint_stays(
    config: MakeConfig, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """No file may be larger, from the second save on: of the first limit the weights, of the second the moments."""
    settings = config()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="checkpoint-4 could not be written") as full:
        restrict = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, hard))
        patch.setattr(Trainer, "save_model", at_the_second([], Trainer.save_model, restrict))
        try:
            train(settings)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoint-2 is kept; free disk space" in str(full.value)
    assert [path.name for path in settings.out_dir.glob("checkpoint-*")] == ["checkpoint-2"]
    assert_same(train(settings), undisturbed)


def test_a_full_disk_at_the_end_keeps_the_last_checkpoint(
    config: MakeConfig, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save_final", refuse)
        with pytest.raises(ValueError, match="could not be written: No space left on device. checkpoint-6 is kept"):
            train(settings)
    assert_same(train(settings), undisturbed)


def test_checkpoints_of_every_so_many_steps_stay(config: MakeConfig, tmp_path: Path) -> None:
    folder = train(config(save_steps=1, save_total_limit=1, keep_every=2, epochs=5 / 3))
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert all(run_checkpoints.is_complete(path) for path in folder.glob("checkpoint-*"))
    assert train(config(save_steps=1, keep_every=None, epochs=5 / 3)) == folder  # how much is kept may change


def test_the_heaviest_micro_batch_by_positions_and_patches(tiny_dir: Path) -> None:
    model_config = load_checkpoint(tiny_dir)[0].config
    of = partial(heaviest_micro_batch, config=model_config, trainable=["language_model"])
    # Two ranks with two micro-batches of two rows each, in the order rank 0, rank 1, rank 0, rank 1.
    plan = RunPlan(np.arange(8), np.arange(0, 9, 2), accumulation=2, world_size=2)
    tokens, patches = np.array([9, 1, 5, 5, 6, 6, 3, 4]), np.array([0, 0, 0, 0, 0, 0, 900, 900])
    lengths = RowLengths(tokens, tokens, np.ones(8, dtype=int), patches)
    assert of(plan, lengths, 0, padded=True).tolist() == [0, 1]  # 2 x 9 positions
    assert of(plan, lengths, 0, padded=False).tolist() == [4, 5]  # 12 positions
    assert of(plan, lengths, 1, padded=True).tolist() == [2, 3]
    trained_tower = of(plan, lengths, 1, padded=True, trainable=["vision_tower"])
    assert trained_tower.tolist() == [6, 7]


def test_the_heaviest_micro_batch_is_tried_and_leaves_no_trace(
    config: MakeConfig, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seen = SicogForConditionalGeneration.forward, []

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].numel())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SicogForConditionalGeneration, "forward", noted)
    checked = train(config(check_memory=True))
    assert_same(checked, undisturbed)
    assert len(seen) == 1 + 6 * 2 and seen[0] == max(seen)
    adapted = {"lora": {"dropout": 0.3}, "max_steps": 2}  # draws random numbers in every step
    runs = [train(config(out_dir=tmp_path / str(on), check_memory=on, **adapted)) for on in (False, True)]
    assert_same(*runs)


def test_too_little_memory_is_reported_before_the_first_update(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SicogForConditionalGeneration, "forward", forward)
    for check in (True, False):  # and with the same words where an update runs out
        with pytest.raises(ValueError, match=r"out of memory on a micro-batch of 4 x \d+ positions, \d+ views") as told:
            train(config(check_memory=check))
        assert "among rows row-" in str(told.value) and "device_batch (now 4; the global batch does not change)" in str(
            told.value
        )
        assert "Set gradient_checkpointing=full and run again" in str(told.value)
    # It is the same run with more memory saved, so that it may go on in its folder.
    monkeypatch.undo()
    train(config(gradient_checkpointing="full", check_memory=True))


def test_a_second_start_of_a_run_is_refused(config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", hold, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="being written by another process"):
            train(config(max_steps=1))
        other.kill()
    assert (train(config(max_steps=1)) / "manifest.json").is_file()

"""ZeRO-2 and ZeRO-3 on two CPU processes against one process; resume, resharding, and a rank that raises."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from warm_sicog import warm_python

from sicog.data.batching import plan_run
from sicog.model import SicogForConditionalGeneration
from sicog.stages.storage import read_json
from sicog.training import run_checkpoints
from sicog.training.config import ModelSource, TrainConfig
from sicog.training.load import load_model, weights_of
from sicog.training.parallel import kind, sharding
from sicog.training.parallel.reshard import reshard
from sicog.training.train import train
from sicog.training.trainer import trainer_arguments

MakeConfig = Callable[..., TrainConfig]
LAUNCHER = ["-m", "torch.distributed.run", "--standalone"]
# Clips to gradients below Adam's epsilon: of larger ones Adam's updates hardly depend on the scale.
TIGHT = 1e-6


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def start(settings: TrainConfig, run_dir: Path, processes: int, before: str = "") -> subprocess.Popen[str]:
    """Train in processes of their own, through the guard of the command line."""
    script = run_dir.parent / f"train_{run_dir.name}.py"
    values = settings.model_copy(update={"out_dir": run_dir}).model_dump_json()
    script.write_text(
        "import os, pathlib\n"
        "from sicog import cli\n"
        "from sicog.training.parallel import sharding\n"
        "from sicog.training.config import TrainConfig\n"
        "from sicog.training.train import train\n"
        f"pathlib.Path({str(run_dir)!r} + '.pid' + os.environ['RANK']).write_text(str(os.getpid()))\n"
        f"{before}\n"
        f"cli.report_mistakes(lambda: train(TrainConfig.model_validate_json({values!r})))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [str(warm_python()), *LAUNCHER, f"--nproc-per-node={processes}", str(script)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def kill_when(condition: Callable[[], bool], process: subprocess.Popen[str], run_dir: Path) -> None:
    """Kill -9 all ranks; their launcher then ends."""
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None, "the run did not get that far"
        time.sleep(0.005)
    for file in run_dir.parent.glob(f"{run_dir.name}.pid*"):
        os.kill(int(file.read_text()), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0 and not (run_dir / "manifest.json").exists()


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    return errors


def assert_same(run: Path, reference: Path, *, grad_rel: float = 1e-4) -> None:
    """The same losses and gradient norms, update by update."""
    ours, theirs = metrics(run), metrics(reference)
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], abs=1e-4)
    norms = [line["grad_norm"] for line in theirs]
    assert [line["grad_norm"] for line in ours] == pytest.approx(norms, rel=grad_rel)


@pytest.mark.slow
def test_zero2_is_one_process_and_resumes_after_a_kill(config: MakeConfig, tmp_path: Path) -> None:
    """Clipped; with a rank of text only beside one with images; killed and resumed."""
    settings = config(device_batch=1, max_steps=6, save_steps=2, max_grad_norm=TIGHT)
    plan = plan_run(range(24), global_batch=8, device_batch=1, world_size=2, max_steps=6, seed=settings.seed)
    pairs = plan.rows.reshape(-1, 2) % 6 == 0  # of the rows of both ranks at once, whether they are without an image
    assert (pairs[:, 0] & ~pairs[:, 1]).any() and (pairs[:, 1] & ~pairs[:, 0]).any()

    one, free = tmp_path / "one", tmp_path / "free"
    train(settings.model_copy(update={"out_dir": one}))
    train(settings.model_copy(update={"out_dir": free, "max_grad_norm": 1.0}))
    assert abs(metrics(one)[-1]["loss"] - metrics(free)[-1]["loss"]) > 0.01

    two = tmp_path / "two"
    zero2 = settings.model_copy(update={"parallel": "zero2"})
    kill_when(
        lambda: (two / "checkpoint-2" / "complete.json").exists() and len(metrics(two)) >= 3, start(zero2, two, 2), two
    )
    newest = run_checkpoints.newest_complete(two)
    assert newest is not None and run_checkpoints.saved_by(newest) == 2
    saved = SicogForConditionalGeneration.from_pretrained(newest)
    assert not torch.equal(saved.resampler.query, load_file(one / "model.safetensors")["resampler.query"])
    with pytest.raises(ValueError, match=r"states of 2 processes .* 1 are running; .* sicog reshard .* --processes 1"):
        run_checkpoints.check_processes(newest, 1)

    errors = finish(start(zero2, two, 2))
    assert "resuming from checkpoint-" in errors
    assert_same(two, one)
    assert read_json(two / "run.json")["identity"]["parallel"] == "zero2"
    model, info = SicogForConditionalGeneration.from_pretrained(two, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in load_file(one / "model.safetensors").items():
        assert torch.allclose(model.state_dict()[name], value, atol=1e-4), name


@pytest.mark.slow
def test_zero3_from_parts_is_one_process_and_resumes_with_one_after_resharding(
    config: MakeConfig, tiny_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A random projector is drawn as by one process; nothing stays whole on a rank; layers are computed again."""
    parts = {"vision_tower": tiny_dir / "parts" / "vision", "language_model": tiny_dir / "parts" / "text"}
    model = {**parts, "config": {"scale": 56, "query_grid": 2, "max_slices": 4}}
    settings = config(stage="align", model=model, device_batch=1, max_steps=6, save_steps=2, weight_decay=0.1, epochs=1)
    one = tmp_path / "one"
    train(settings.model_copy(update={"out_dir": one}))

    run, nothing_whole = tmp_path / "zero3", "sharding._KEPT_WHOLE = 0"
    zero3 = settings.model_copy(update={"parallel": "zero3", "gradient_checkpointing": "full"})
    process = start(zero3, run, 2, nothing_whole)
    kill_when(lambda: (run / "checkpoint-2" / "complete.json").exists() and len(metrics(run)) >= 3, process, run)
    newest = run_checkpoints.newest_complete(run)
    assert newest is not None and not (run / ".whole").exists()
    SicogForConditionalGeneration.from_pretrained(newest)

    with pytest.raises(ValueError, match="global_batch 8 is not a multiple"):
        reshard(run, 3)
    universal = reshard(run, 1)
    assert (
        universal.name == f"{newest.name}-universal" and run_checkpoints.is_complete(universal) and not newest.exists()
    )
    assert run_checkpoints.newest_complete(run) == universal
    with pytest.raises(ValueError, match="needs no resharding"):
        reshard(run, 2)
    assert "it/s" not in capfd.readouterr().err

    errors = finish(start(zero3, run, 1, nothing_whole))
    assert f"resuming from {universal.name}" in errors
    assert_same(run, one)
    final = load_file(run / "model.safetensors")
    for name, value in load_file(one / "model.safetensors").items():
        assert torch.allclose(final[name], value, atol=1e-3), name
    projector = load_file(run / "projector.safetensors")
    assert projector and all(torch.equal(value, final[name]) for name, value in projector.items())


@pytest.mark.slow
def test_a_rank_that_raises_ends_all_at_once(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    """Only one rank meets the image, in the middle of the run. Its header is valid and its body is cut off."""
    import shutil

    images = tmp_path / "images"
    shutil.copytree(data_dir / "images", images)
    settings = config(
        device_batch=1,
        parallel="ddp",
        data={"path": data_dir / "rows", "image_folder": images, "check_images": "header"},
    )
    plan = plan_run(range(24), global_batch=8, device_batch=1, world_size=2, epochs=2, seed=settings.seed)
    row = next(int(row) for row in plan.rows[11::2] if row % 6)  # of the second rank, in the second update
    (images / f"{row}.png").write_bytes((images / f"{row}.png").read_bytes()[:200])
    run = tmp_path / "run"
    process = start(settings, run, 2)
    while not metrics(run):
        assert process.poll() is None
        time.sleep(0.01)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and time.monotonic() - began < 30
    assert errors.count(f"sicog: row row-{row} could be read before training, but not now") == 1, errors[-3000:]
    assert not (run / "manifest.json").exists()


POISONED = """
from sicog.training.trainer import SicogTrainer
original = SicogTrainer.compute_loss
def poisoned(self, *args, **kwargs):
    loss = original(self, *args, **kwargs)
    if self.state.global_step == 1:
        loss.register_hook(lambda gradient: gradient * float("inf"))
    return loss
SicogTrainer.compute_loss = poisoned
"""


@pytest.mark.slow
def test_zero_leaves_out_an_update_that_is_not_finite(config: MakeConfig, tmp_path: Path) -> None:
    """DeepSpeed makes the update within the backward pass, so it must be DeepSpeed that leaves it out."""
    run = tmp_path / "run"
    _, errors = (process := start(config(parallel="zero2"), run, 1, POISONED)).communicate(timeout=200)
    assert process.returncode != 0 and len(metrics(run)) == 1
    assert re.search(r"sicog: the gradient norm is inf at update 2, of rows row-\d+, .* before the update", errors)


EXACT = """
import torch
from sicog.training.parallel import sharding
from sicog.training.trainer import SicogTrainer
step, load = SicogTrainer.training_step, sharding.load
def rounded(config, load_model):
    model, processor = load(config, load_model)
    rotary = model.language_model.model.rotary_emb
    rotary.inv_freq = rotary.inv_freq.to(torch.bfloat16)  # as older versions of DeepSpeed and Transformers leave it
    return model, processor
def checked(self, model, *args, **kwargs):
    rotary = self.model.language_model.model.rotary_emb
    exact, _ = rotary.compute_default_rope_parameters(rotary.config)
    assert rotary.inv_freq.dtype == torch.float32 and torch.equal(rotary.inv_freq, exact), rotary.inv_freq
    assert self.model.language_model.model.norm.weight.dtype == torch.bfloat16
    return step(self, model, *args, **kwargs)
sharding.load, SicogTrainer.training_step = rounded, checked
"""


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["zero2", "zero3"])
def test_the_bfloat16_engine_trains_with_exact_positions(config: MakeConfig, tmp_path: Path, parallel: str) -> None:
    settings = config(parallel=parallel, precision="bfloat16", max_steps=3, device_batch=2)
    train(settings.model_copy(update={"out_dir": tmp_path / "one", "parallel": "ddp", "precision": "float32"}))
    errors = finish(start(settings, tmp_path / "two", 2, EXACT))
    assert errors.count("restored rotary frequencies") == 1
    ours, exact = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in exact], rel=0.02)


ROUNDED_LATER = """
from sicog.training import train as module
module.weights_of = lambda config: "float32"
"""


@pytest.mark.slow
@pytest.mark.nightly
def test_weights_read_in_bfloat16_train_as_those_that_the_engine_rounds(config: MakeConfig, tmp_path: Path) -> None:
    settings = config(parallel="zero2", precision="bfloat16", max_steps=3)
    for name, before in (("read", ""), ("rounded", ROUNDED_LATER)):
        finish(start(settings, tmp_path / name, 1, before))
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("read", "rounded")]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("parallel", "precision", "expected"),
    [
        ("zero2", "bfloat16", torch.bfloat16),
        ("zero3", "bfloat16", torch.bfloat16),
        ("zero2", "float32", torch.float32),
        ("ddp", "bfloat16", torch.float32),
        ("fsdp", "bfloat16", torch.float32),
    ],
)
def test_weights_are_read_as_the_training_keeps_them(
    config: MakeConfig, parallel: str, precision: str, expected: torch.dtype
) -> None:
    settings = config(parallel=parallel, precision=precision)
    model, _ = load_model(settings.model, weights_of(settings))
    assert {p.dtype for p in model.parameters()} == {expected}


def test_a_new_projector_is_the_same_in_every_dtype_but_for_rounding(tiny_dir: Path) -> None:
    parts = {"vision_tower": tiny_dir / "parts" / "vision", "language_model": tiny_dir / "parts" / "text"}
    source, found = ModelSource(**parts, config={"scale": 56, "query_grid": 2}), []  # type: ignore[arg-type]
    for weights in ("float32", "bfloat16"):
        torch.manual_seed(0)
        found.append(load_model(source, weights)[0].resampler.state_dict())  # type: ignore[arg-type]
    assert all(torch.equal(found[0][name].bfloat16(), found[1][name]) for name in found[0])


def test_deepspeed_gets_what_the_config_says(config: MakeConfig) -> None:
    """Clipping is in DeepSpeed's own settings: the Trainer's max_grad_norm alone would not be applied."""
    for precision in ("float32", "bfloat16"):
        told = sharding.deepspeed_config(config(parallel="zero2", max_grad_norm=0.3, precision=precision))
        assert told["gradient_clipping"] == 0.3 and told["zero_optimization"]["stage"] == 2
        assert told["bf16"] == {"enabled": precision == "bfloat16"}
        assert told["zero_optimization"]["overlap_comm"] is torch.cuda.is_available()
        assert "offload_optimizer" not in told["zero_optimization"]
    zero3 = sharding.deepspeed_config(config(parallel="zero3", offload=True))["zero_optimization"]
    assert zero3["stage"] == 3 and zero3["stage3_gather_16bit_weights_on_model_save"]
    assert zero3["offload_optimizer"]["device"] == zero3["offload_param"]["device"] == "cpu"


def test_no_process_waits_for_weeks(config: MakeConfig) -> None:
    """A dead rank must not hang the job forever."""
    plan = plan_run([1] * 8, global_batch=8, device_batch=4, seed=0)
    assert trainer_arguments(config(parallel="ddp"), plan).ddp_timeout == 1800


def settled(config: TrainConfig) -> str:
    return kind.resolve_parallel(config.parallel, config.out_dir, offload=config.offload)


def test_auto_is_settled_by_the_machine(config: MakeConfig, launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for device, world_size, expected in (("cuda", "2", "zero2"), ("cuda", "1", "ddp"), ("cpu", "2", "ddp")):
        monkeypatch.setenv("WORLD_SIZE", world_size)
        monkeypatch.setattr(kind, "chosen_device", lambda device=device: device)
        assert settled(config()) == expected


def test_auto_follows_the_folders_first_run(config: MakeConfig, launched: None, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"identity": {"parallel": "zero3"}}')
    assert settled(config()) == "zero3"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parallel": "ddp", "offload": True}, "offload moves sharded states.*Set parallel=zero2, zero3 or fsdp"),
        ({"parallel": "fsdp"}, "fsdp needs CUDA devices"),
    ],
)
def test_what_cannot_be_had_is_refused(
    config: MakeConfig, launched: None, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    monkeypatch.setattr(kind, "chosen_device", lambda: "cpu")
    with pytest.raises(ValueError, match=sentence):
        settled(config(**changes))


def test_zero_without_a_launcher_or_deepspeed_is_refused(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node=1 -m sicog train"):
        settled(config(parallel="zero2"))
    monkeypatch.setattr(kind, "_has_deepspeed", lambda: False)
    with pytest.raises(ValueError, match=r"Install sicog\[train\]"):
        settled(config(parallel="zero3"))


def test_fsdp_shards_layers(
    config: MakeConfig, tiny_dir: Path, launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "chosen_device", lambda: "cuda")
    told = sharding.trainer_settings(config(parallel="fsdp", offload=True))
    assert told["fsdp"] is True and told["fsdp_config"] == {"cpu_offload": True}
    model = SicogForConditionalGeneration.from_pretrained(tiny_dir)
    assert {"CLIPEncoderLayer", "Qwen2DecoderLayer"} <= set(model._no_split_modules)


def test_whole_states_go_on_with_any_number_of_processes(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    run_checkpoints.mark_complete(folder, processes=2)
    run_checkpoints.check_processes(folder, 4)
    sharded = tmp_path / "checkpoint-4"
    (sharded / "global_step4").mkdir(parents=True)
    run_checkpoints.mark_complete(sharded, processes=2)
    run_checkpoints.check_processes(sharded, 2)
    with pytest.raises(ValueError, match="2 processes in 2 shards, and 4 are running"):
        run_checkpoints.check_processes(sharded, 4)


def test_a_universal_checkpoint_is_newer_than_its_own(tmp_path: Path) -> None:
    for name in ("checkpoint-4-universal", "checkpoint-4", "checkpoint-2"):
        (tmp_path / name).mkdir()
        run_checkpoints.mark_complete(tmp_path / name, processes=2)
    assert run_checkpoints.newest_complete(tmp_path) == tmp_path / "checkpoint-4-universal"


def test_only_a_stopped_run_is_resharded(tmp_path: Path, config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"has no run\.json"):
        reshard(tmp_path, 2)
    run_dir = train(config(max_steps=1))
    with pytest.raises(ValueError, match="is finished"):
        reshard(run_dir, 2)
    (run_dir / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no complete checkpoint"):
        reshard(run_dir, 2)

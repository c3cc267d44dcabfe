"""Training end to end on a tiny model: the loss, resume, refusals, what is left on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import kill
from safetensors.torch import load_file, save_file
from warm_sicog import warm_python

from sicog.model import load_checkpoint
from sicog.records import Example, Turn
from sicog.stages.storage import read_json, read_records, write_dataset
from sicog.training import save_times
from sicog.training.config import TrainConfig
from sicog.training.load import load_model
from sicog.training.train import train

MakeConfig = Callable[..., TrainConfig]


QA = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A red circle."}]


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_whole_checkpoint(config: MakeConfig, tiny_dir: Path) -> None:
    run_dir = train(config())
    manifest = read_json(run_dir / "manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["steps"], manifest["samples"]) == (24, 24, 6, 48)
    lines = metrics(run_dir)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6] and lines[-1]["epoch"] == 2
    assert manifest["final_loss"] == lines[-1]["loss"] < lines[0]["loss"]
    assert len((run_dir / "speed.jsonl").read_text().splitlines()) == 6
    assert not list(run_dir.glob("checkpoint-*")) and not (run_dir / "training_args.bin").exists()
    model, processor = load_checkpoint(run_dir)
    before = load_checkpoint(tiny_dir)[0].state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(n.startswith("vision_tower") for n in changed) and any(n.startswith("resampler") for n in changed)
    assert not any("layers.2" in n and n.startswith("vision_tower") for n in changed)
    assert "use_cache" not in read_json(run_dir / "config.json") and processor.query_grid == 2


def test_a_finished_run_returns_at_once_and_another_config_is_refused(
    config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = train(config())
    stage = config().stage
    assert f"  {stage}: finished after 6 updates; the model is in {run_dir}\n" in capsys.readouterr().err
    written = (run_dir / "manifest.json").stat().st_mtime_ns
    assert train(config(workers=1)) == run_dir
    assert (run_dir / "manifest.json").stat().st_mtime_ns == written
    assert capsys.readouterr().err == f"  {stage}: {run_dir} is finished already, nothing to do\n"
    assert train(config(report_to=["dvclive"])) == run_dir  # whether its package is still there or not
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001, now 0\.002"):
        train(config(learning_rate=2e-3))


def test_a_refused_start_leaves_the_folder_to_the_corrected_one(
    config: MakeConfig, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="fewer than global_batch 128"):
        train(config(global_batch=128))
    broken = tmp_path / "rows.json"
    rows = [{"id": str(i), "image": f"{i if i > 4 else 'none'}.png", "conversations": QA} for i in range(1, 21)]
    broken.write_text(json.dumps(rows))
    data = {"path": broken, "image_folder": data_dir / "images"}
    with pytest.raises(ValueError, match="4 of 20 rows cannot be used"):
        train(config(data=data))
    broken.write_text(json.dumps(rows[4:]))
    assert read_json(train(config(data=data, learning_rate=2e-3)) / "manifest.json")["rows_in"] == 16
    with pytest.raises(ValueError, match="belongs to another run"):
        train(config())


def test_noise_changes_what_is_learnt_and_not_what_is_counted(config: MakeConfig, tmp_path: Path) -> None:
    plain = metrics(train(config(out_dir=tmp_path / "plain")))
    for name, noise in (("image", {"jitter": 0.5, "mirror": 0.5}), ("features", {"dropout": 0.3})):
        noisy = metrics(train(config(out_dir=tmp_path / name, noise=noise)))
        assert noisy == metrics(train(config(out_dir=tmp_path / f"{name}-again", noise=noise)))
        assert [line["loss"] for line in noisy] != [line["loss"] for line in plain]
    with pytest.raises(ValueError, match="noise needs objective next_token"):
        config(stage="dpo", objective="dpo", noise={"jitter": 0.1})


def test_accumulation_gives_the_update_of_the_full_batch(config: MakeConfig, tmp_path: Path) -> None:
    """Rows differ much in supervised tokens, so a mean of means would be another loss."""
    runs = [
        train(config(out_dir=tmp_path / str(batch), device_batch=batch, group_by_length=True)) for batch in (8, 4, 1)
    ]
    losses = [[line["loss"] for line in metrics(run)] for run in runs]
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=1e-4)
    weights = [load_file(run / "model.safetensors") for run in runs]
    for other_weights in weights[1:]:
        assert all(torch.allclose(weights[0][k], other_weights[k], atol=2e-4) for k in weights[0])


def test_the_loss_is_the_mean_over_supervised_tokens(config: MakeConfig, data_dir: Path, tiny_dir: Path) -> None:
    """The first update's loss against the rows taken one by one."""
    from sicog.data.batching import plan_run
    from sicog.training.train import load_rows

    settings = config(max_steps=1)
    run_dir = train(settings)
    model, processor = load_model(settings.model)
    dataset = load_rows(settings, processor).dataset
    plan = plan_run(dataset.lengths.tokens, global_batch=8, device_batch=4, max_steps=1, seed=settings.seed)
    total, count = 0.0, 0
    for index in plan.rows_of(0):
        batch = processor.collate([dataset[index][1]])
        n = int((batch["labels"] != -100).sum())
        total, count = total + n * model(**batch).loss.item(), count + n
    assert metrics(run_dir)[0]["loss"] == pytest.approx(total / count, abs=1e-4)


def test_align_trains_the_projector_alone_and_saves_it(config: MakeConfig, tiny_dir: Path, tmp_path: Path) -> None:
    parts = {"vision_tower": tiny_dir / "parts" / "vision", "language_model": tiny_dir / "parts" / "text"}
    model = {**parts, "config": {"scale": 56, "query_grid": 2, "max_slices": 4}}
    run_dir = train(config(stage="align", model=model, trainable=["projector"], slicing=False, max_steps=2))
    projector = load_file(run_dir / "projector.safetensors")
    final = load_file(run_dir / "model.safetensors")
    assert projector and all(torch.equal(value, final[name]) for name, value in projector.items())
    for name, value in load_file(tiny_dir / "parts" / "text" / "model.safetensors").items():
        assert torch.equal(value, final[f"language_model.{name}"])
    for source in (run_dir, run_dir / "projector.safetensors"):
        next_model, _ = load_model(config(model={**model, "projector": source}).model)
        assert torch.equal(next_model.resampler.query, final["resampler.query"])


def test_new_parts_are_drawn_from_the_seed(config: MakeConfig, tiny_dir: Path, tmp_path: Path) -> None:
    parts = {"vision_tower": tiny_dir / "parts" / "vision", "language_model": tiny_dir / "parts" / "text"}
    model = {**parts, "config": {"scale": 56, "query_grid": 2}}
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(len(name) + len(runs))  # whatever was drawn before must not matter
        runs.append(train(config(stage="align", out_dir=tmp_path / name, model=model, seed=seed, max_steps=1)))
    first, same, other = (load_file(run / "model.safetensors")["resampler.proj"] for run in runs)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_an_unknown_model_setting_is_named(config: MakeConfig, tiny_dir: Path) -> None:
    model = {"vision_tower": tiny_dir, "language_model": tiny_dir, "config": {"query_gird": 2}}
    with pytest.raises(ValueError, match=r"model\.config\.query_gird"):
        train(config(stage="align", model=model))


def test_too_many_drops_stop_the_run_with_counts(config: MakeConfig, tmp_path: Path) -> None:
    turns = (Turn(role="user", text="hi", images_at=(0,)), Turn(role="assistant", text="yes"))
    write_dataset(tmp_path / "rows", [Example(id=f"x{i}", images=(f"{i}.png",), turns=turns) for i in range(5)])
    data = {"path": tmp_path / "rows", "image_folder": tmp_path}
    with pytest.raises(ValueError, match=r"5 of 5 rows cannot be used \(image_missing 5; such as x0"):
        train(config(data=data))
    assert len((tmp_path / "run" / "dropped.jsonl").read_text().splitlines()) == 5
    # The same run folder goes on when more may be dropped.
    with pytest.raises(ValueError, match="no row to train on"):
        train(config(data={**data, "max_dropped_share": 1.0}))


def test_more_drops_may_be_allowed_in_the_same_folder(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    rows = list(read_records(data_dir / "rows", Example))
    broken = [row.model_copy(update={"images": ("none.png",)}) if i in (13, 14) else row for i, row in enumerate(rows)]
    write_dataset(tmp_path / "rows", broken)
    data = {"sources": [{"path": tmp_path / "rows", "take": "end:12"}], "image_folder": data_dir / "images"}
    with pytest.raises(ValueError, match=r"2 of 12 rows cannot be used \(image_missing 2.*data.max_dropped_share"):
        train(config(data=data, max_steps=1))
    run_dir = train(config(data={**data, "max_dropped_share": 0.2}, max_steps=1))
    manifest = read_json(run_dir / "manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["left_out"]) == (12, 10, 12)
    assert manifest["dropped"] == {"image_missing": 2} and manifest["failed"] == {}


def test_rows_that_get_lost_are_our_mistake(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from sicog.data import dataset
    from sicog.model.lengths import RowLengths

    init = dataset.ExampleDataset.__init__

    def without_the_first(self: Any, tables: Any, selection: Any, lengths: RowLengths, *args: Any, **kw: Any) -> None:
        rest = slice(1, None)
        init(self, tables, selection[rest], RowLengths.of(lengths.as_array()[rest]), *args, **kw)

    monkeypatch.setattr(dataset.ExampleDataset, "__init__", without_the_first)
    with pytest.raises(AssertionError, match="24 rows were read, but 23 are usable and 0 dropped"):
        train(config())


def test_auto_precision_is_settled_in_run_json(config: MakeConfig) -> None:
    run_dir = train(config(precision="auto", max_steps=1))
    here = "bfloat16" if torch.cuda.is_available() else "float32"
    assert read_json(run_dir / "run.json")["identity"]["precision"] == here
    with pytest.raises(ValueError, match="precision was"):
        train(config(precision="float32" if here == "bfloat16" else "bfloat16", max_steps=1))


def test_native_precision_and_plain_attention_train_nearly_the_same(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {}
    for name, can in (("bfloat16", {"avx512_bf16": True}), ("float32", {"amx_bf16": False, "avx512_bf16": False})):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can, raising=False)
        run_dir = train(config(precision="native", attention="eager", max_steps=3, out_dir=tmp_path / name))
        expected = "bfloat16" if torch.cuda.is_available() else name
        assert read_json(run_dir / "run.json")["identity"]["precision"] == expected
        losses[name] = [row["loss"] for row in metrics(run_dir)]
        assert {tensor.dtype for tensor in load_file(run_dir / "model.safetensors").values()} == {torch.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"] or torch.cuda.is_available()
    with pytest.raises(ValueError, match="packed rows need their own attention"):
        config(packing="step", attention="eager")


def test_a_batch_that_does_not_divide_stops_before_anything_is_written(config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device_batch 3"):
        train(config(device_batch=3))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_with_the_ids(config: MakeConfig, tiny_dir: Path, tmp_path: Path) -> None:
    model, processor = load_checkpoint(tiny_dir)
    broken = tmp_path / "broken"
    model.save_pretrained(broken)
    processor.save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    weights["language_model.model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"loss is nan at update 1, of rows (row-\d+(, )?){8};"):
        train(config(model={"checkpoint": broken}))
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_weights_that_the_last_update_broke_are_not_saved(config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"after update 1 \d+ of \d+ trained tensors hold NaN or infinity, such as "):
        train(config(learning_rate=1e39, max_steps=1, warmup_ratio=0))
    left = config().out_dir
    assert not (left / "manifest.json").exists() and not list(left.rglob("*.safetensors"))


def test_a_gradient_that_is_not_finite_stops_before_the_update(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sicog.training.trainer import SicogTrainer

    def poisoned(self: SicogTrainer, model: Any, inputs: dict[str, Any], n: Any = None) -> torch.Tensor:
        loss = original(self, model, inputs, n)
        if self.state.global_step == 1:
            next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(float("inf"))
        return loss

    original = SicogTrainer.training_step
    monkeypatch.setattr(SicogTrainer, "training_step", poisoned)
    with pytest.raises(ValueError, match="gradient norm is .* at update 2, of rows row-"):
        train(config())


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(config: MakeConfig, tmp_path: Path) -> None:
    """kill -9 between two save points, a half-written checkpoint besides; then the same command again."""
    settings = config(epochs=12, save_steps=5)
    undisturbed = start(settings, tmp_path / "undisturbed")
    assert undisturbed.wait(timeout=120) == 0

    run_dir = tmp_path / "killed"
    process = start(settings, run_dir)
    wait_until(lambda: (run_dir / "checkpoint-10" / "complete.json").exists() and len(metrics_raw(run_dir)) >= 12)
    assert kill(process) == -signal.SIGKILL
    assert not (run_dir / "manifest.json").exists()
    newest = max(run_dir.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    half = run_dir / "checkpoint-30"
    half.mkdir()
    (half / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:1000])

    again = start(settings, run_dir)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0 and "resuming from checkpoint-" in errors and "checkpoint-30" not in errors
    for name in ("metrics.jsonl", "model.safetensors", "manifest.json"):
        assert (run_dir / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, range(1, 7)), (1e9, [6])])
def test_without_save_steps_checkpoints_come_by_the_clock(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, minutes: float, saved: Iterable[int]
) -> None:
    monkeypatch.setattr(save_times, "_PARTS", 1)
    monkeypatch.setattr(save_times, "_COST", 0)
    run_dir = train(config(save_steps=None, save_minutes=minutes, keep_checkpoints=True, save_total_limit=9))
    assert {path.name for path in run_dir.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in saved}


@pytest.mark.slow
@pytest.mark.parametrize("packing", [{}, {"packing": "step", "pack_tokens": 150}], ids=["padded", "packed"])
def test_two_processes_train_as_one(config: MakeConfig, tmp_path: Path, packing: dict[str, Any]) -> None:
    settings = config(max_steps=3, device_batch=2, **packing)
    assert start(settings, tmp_path / "one").wait(timeout=120) == 0
    process = start(settings, tmp_path / "two", processes=2)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-2000:]
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=1e-4)
    assert [line["grad_norm"] for line in two] == pytest.approx([line["grad_norm"] for line in one], rel=1e-3)


def start(settings: TrainConfig, run_dir: Path, *, processes: int = 1) -> subprocess.Popen[str]:
    """Train in processes of their own."""
    script = run_dir.parent / f"train_{run_dir.name}.py"
    values = settings.model_copy(update={"out_dir": run_dir}).model_dump_json()
    script.write_text(
        "from sicog.training.config import TrainConfig\n"
        "from sicog.training.train import train\n"
        f"train(TrainConfig.model_validate_json({values!r}))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [str(warm_python()), *(launcher if processes > 1 else []), str(script)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def metrics_raw(run_dir: Path) -> list[str]:
    path = run_dir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.005)

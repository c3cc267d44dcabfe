"""The DPO objective: its values against TRL's own and against the plain formula, and training with it end to end."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from kills import kill
from PIL import Image
from preference_pairs import dpo_values, make_pairs
from safetensors.torch import load_file

from sicog.data.image_folder import ImageFolder
from sicog.data.packing import PackLimits
from sicog.data.pairs import PairDataset, encode_pair
from sicog.model import load_checkpoint
from sicog.model.lengths import RowLengths
from sicog.records import ReferencedPair
from sicog.stages.storage import read_json, read_records
from sicog.training.config import TrainConfig
from sicog.training.objectives.dpo import METRICS, DpoObjective, preferences
from sicog.training.objectives.reference import reference_log_probs
from sicog.training.train import train
from sicog.training.updates import pack_limits

MakeConfig = Callable[..., TrainConfig]
P, T = 3, 7


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def token_log_probs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log-probabilities of tokens [2P, T - 1], chosen rows first, their mask [2P, T], references [P, 2])."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(2 * P, T, generator=generator) < 0.6
    mask[:, 0], mask[:, 1] = False, True
    values = -4 * torch.rand(2 * P, T - 1, generator=generator) * mask[:, 1:]
    return values, mask, -9 * torch.rand(P, 2, generator=generator)


class OneUpdate:
    """A dataset and a plan of one update of P pairs."""

    def __init__(self, chosen_supervised: torch.Tensor) -> None:
        self.chosen_supervised = chosen_supervised.numpy()

    def rows_of(self, step: int) -> list[int]:
        return list(range(P))


def of_trl(beta: float, weights: list[float]) -> tuple[float, dict[str, float]]:
    """TRL's loss (its `sigmoid` and `sft`, weighted) and metrics, by its own code."""
    from trl import DPOTrainer

    values, mask, reference = token_log_probs()
    outputs = SimpleNamespace(
        log_probs=values, entropy=values, mean_logits=values, is_top1=torch.zeros_like(values, dtype=torch.bool)
    )
    model: Any = lambda **_: outputs  # noqa: E731
    found: dict[str, list[float]] = defaultdict(list)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather=lambda t: t, gather_for_metrics=lambda t: t),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid", "sft"],
        loss_weights=weights,
        beta=beta,
        label_smoothing=0.0,
        use_weighting=False,
        _metrics={"train": found},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.ones(2 * P, T, dtype=torch.long),
        "attention_mask": torch.ones(2 * P, T),
        "completion_mask": mask.long(),
        "ref_chosen_logps": reference[:, 0],
        "ref_rejected_logps": reference[:, 1],
    }
    loss = DPOTrainer._compute_loss(trainer, model, inputs, False)
    return float(loss), {name: value[-1] for name, value in found.items()}


def of_ours(beta: float, alpha: float, gamma: float) -> tuple[float, dict[str, float]]:
    """Our loss and metrics of the same log-probabilities, as one micro-batch."""
    values, mask, reference = token_log_probs()
    log_probs_P2 = values.sum(dim=1).view(2, P).T
    output = SimpleNamespace(document_log_probs=log_probs_P2.reshape(-1))
    update: Any = OneUpdate(mask[:P, 1:].sum(dim=1))
    settings: Any = SimpleNamespace(beta=beta, alpha=alpha, gamma=gamma)
    objective = DpoObjective(settings, update, update)
    inputs = {"reference_log_probs": [tuple(pair) for pair in reference.tolist()]}
    loss = objective.loss(lambda **_: output, inputs, 0)
    return float(loss), objective.metrics(lambda sums: sums)


@pytest.mark.parametrize(("beta", "alpha", "gamma"), [(0.1, 1.0, 1.0), (0.5, 2.0, 0.25)])
def test_values_are_those_of_trl(beta: float, alpha: float, gamma: float) -> None:
    (theirs, their_metrics), (ours, our_metrics) = of_trl(beta, [alpha, gamma]), of_ours(beta, alpha, gamma)
    assert ours == pytest.approx(theirs, rel=1e-6)
    for name in METRICS[2:]:
        assert our_metrics[name] == pytest.approx(their_metrics[name], rel=1e-5), name
    assert ours == pytest.approx(alpha * our_metrics["dpo_loss"] + gamma * our_metrics["sft_loss"], rel=1e-6)
    assert 0 < our_metrics["rewards/accuracies"] < 1


def test_the_formula() -> None:
    log_probs, reference = torch.tensor([[-3.0, -5.0], [-4.0, -1.0]]), torch.tensor([[-3.5, -4.0], [-4.0, -4.0]])
    found = preferences(log_probs, reference, beta=0.1)
    margins = [0.1 * ((-3.0 + 3.5) - (-5.0 + 4.0)), 0.1 * ((-4.0 + 4.0) - (-1.0 + 4.0))]
    assert found.losses.tolist() == pytest.approx([-math.log(1 / (1 + math.exp(-m))) for m in margins])
    assert (found.chosen_rewards - found.rejected_rewards).tolist() == pytest.approx(margins)


def test_the_first_update_against_pairs_one_by_one(
    config: MakeConfig, data_dir: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    """Rows 0..3 of each update, whatever the micro-batches; at the first, the model is the reference model."""
    values = dpo_values(data_dir, tmp_path / "pairs", make_pairs(4)) | {"max_steps": 3}
    lines = metrics(train(config(**values)))
    model, processor = load_checkpoint(tiny_dir)
    total, count = 0.0, 0
    for pair in make_pairs(4):
        chosen, rejected = encode_pair(pair, processor, ImageFolder(data_dir / "images", cache=tmp_path), slicing=True)
        expected = [model(**processor.collate([e])) for e in (chosen, rejected)]
        n = [sum(label != -100 for label in e.labels) for e in (chosen, rejected)]
        total, count = total + n[0] * expected[0].loss.item(), count + n[0]
        row = next(r for r in read_records(tmp_path / "run" / "reference", ReferencedPair) if r.id == pair.id)
        assert row.chosen_log_prob == pytest.approx(-n[0] * expected[0].loss.item(), abs=1e-3)
        assert row.rejected_log_prob == pytest.approx(-n[1] * expected[1].loss.item(), abs=1e-3)
    assert lines[0]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[0]["sft_loss"] == pytest.approx(total / count, abs=1e-4)
    assert lines[0]["loss"] == pytest.approx(lines[0]["dpo_loss"] + lines[0]["sft_loss"], abs=1e-5)
    # The learning rate of the first update is 0.
    assert max(abs(line["rewards/margins"]) for line in lines[:2]) < 1e-5 < abs(lines[2]["rewards/margins"])


def test_the_margin_grows(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    values = dpo_values(data_dir, tmp_path / "pairs") | {"max_steps": 12, "global_batch": 12, "learning_rate": 3e-3}
    lines = metrics(train(config(**values, dpo={"gamma": 0.0})))
    margins = [line["rewards/margins"] for line in lines]
    assert margins[-1] > 0.1 and margins[-1] > margins[4] > margins[0]
    assert lines[-1]["dpo_loss"] < lines[0]["dpo_loss"] and lines[-1]["rewards/accuracies"] == 1
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["dpo_loss"], rel=1e-5)


def test_accumulation_gives_the_update_of_the_full_batch(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    values = dpo_values(data_dir, tmp_path / "pairs")
    runs = [train(config(**values | {"out_dir": tmp_path / str(n), "device_batch": n})) for n in (4, 1)]
    for full, small in zip(*map(metrics, runs), strict=True):
        for name in ("loss", "grad_norm", *METRICS):
            assert small[name] == pytest.approx(full[name], rel=2e-3, abs=1e-4), name


@pytest.mark.parametrize("limit", [None, 200])
def test_packed_pairs_give_the_losses_of_padded_ones(
    config: MakeConfig, data_dir: Path, tmp_path: Path, limit: int | None
) -> None:
    values = dpo_values(data_dir, tmp_path / "pairs")
    off = train(config(**values, out_dir=tmp_path / "off"))
    packed = train(config(**values, out_dir=tmp_path / "packed", packing="step", pack_tokens=limit))
    for one, other in zip(metrics(off), metrics(packed), strict=True):
        for name in ("loss", "grad_norm", *METRICS):
            assert other[name] == pytest.approx(one[name], rel=2e-3, abs=1e-4), name


def test_a_packed_micro_batch_holds_two_conversations_a_row(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    lengths = RowLengths(*(np.ones(3, dtype=np.int32) for _ in range(4)))
    settings = {"packing": "step", "device_batch": 2, "max_length": 100, "global_batch": 4}
    pairs = config(**dpo_values(data_dir, tmp_path / "pairs") | settings)
    assert pack_limits(pairs, lengths) == PackLimits(400, 32)
    assert pack_limits(config(**settings), lengths) == PackLimits(200, 16)


def test_checkpointing_and_the_memory_check_change_nothing(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    values = dpo_values(data_dir, tmp_path / "pairs")
    plain = train(config(**values, out_dir=tmp_path / "plain"))
    full = train(config(**values, out_dir=tmp_path / "full", gradient_checkpointing="full", check_memory=True))
    assert metrics(plain) == metrics(full)


def test_a_run_killed_while_its_final_files_are_written_is_finished(
    config: MakeConfig, data_dir: Path, tmp_path: Path
) -> None:
    """All updates are made: there is no micro-batch to try, and no row of an update to count."""
    settings = config(**dpo_values(data_dir, tmp_path / "pairs"), check_memory=True, keep_checkpoints=True)
    folder = train(settings)
    files = read_json(folder / "manifest.json")["files"]
    (folder / "manifest.json").unlink()
    train(settings)
    assert read_json(folder / "manifest.json")["files"] == files


def test_an_image_changed_after_the_reference_step_is_reported(
    config: MakeConfig, tiny_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The reference's log-probabilities are of the old one, and the plan counts on its views."""
    images = tmp_path / "images"
    shutil.copytree(data_dir / "images", images)
    values = dpo_values(data_dir, tmp_path / "pairs")
    values["data"] = {**values["data"], "image_folder": images}
    folder, _ = reference_log_probs(config(**values))
    processor = load_checkpoint(tiny_dir)[1]
    dataset = PairDataset(folder, processor, ImageFolder(images, cache=tmp_path / "cache"), slicing=True)
    assert dataset[1][0] == "pair-1"
    Image.new("RGB", (300, 40)).save(images / "1.png")
    with pytest.raises(
        ValueError, match=r"pair pair-1 had \d+ tokens when the reference model read it and has \d+ now"
    ):
        dataset[1]


def test_metrics_go_to_tensorboard_too(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = dpo_values(data_dir, tmp_path / "pairs") | {"max_steps": 1, "tensorboard": True}
    events = EventAccumulator(str(train(config(**values)) / "tensorboard"))
    events.Reload()
    assert {f"train/{name}" for name in METRICS} <= set(events.Tags()["scalars"])


def test_stage_and_objective_go_together(config: MakeConfig) -> None:
    for values in ({"stage": "dpo"}, {"objective": "dpo"}):
        with pytest.raises(ValueError, match="stage dpo needs objective dpo"):
            config(**values)
    with pytest.raises(ValueError, match="values under dpo need objective: dpo"):
        config(dpo={"beta": 0.2})


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    from training.test_train import metrics_raw, start, wait_until

    values = dpo_values(data_dir, tmp_path / "pairs") | {"max_steps": 30, "save_steps": 4}
    settings = config(**values)
    train(settings.model_copy(update={"out_dir": tmp_path / "undisturbed"}))
    run_dir = tmp_path / "killed"
    process = start(settings, run_dir)
    wait_until(lambda: (run_dir / "checkpoint-8" / "complete.json").exists() and len(metrics_raw(run_dir)) >= 9)
    assert kill(process) == -signal.SIGKILL and not (run_dir / "manifest.json").exists()
    asked = (run_dir / "reference" / "manifest.json").stat().st_mtime_ns
    train(settings.model_copy(update={"out_dir": run_dir}))
    assert (run_dir / "reference" / "manifest.json").stat().st_mtime_ns == asked  # not computed again
    for name in ("metrics.jsonl", "model.safetensors", "manifest.json", "reference/manifest.json"):
        assert (run_dir / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "zero3"])
def test_two_processes_train_as_one(config: MakeConfig, data_dir: Path, tmp_path: Path, parallel: str) -> None:
    from training.test_train import start

    values = dpo_values(data_dir, tmp_path / "pairs", make_pairs(24) * 11) | {"device_batch": 1}
    settings = config(**values)
    train(settings.model_copy(update={"out_dir": tmp_path / "one"}))
    process = start(settings.model_copy(update={"parallel": parallel}), tmp_path / "two", processes=2)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert {p.name for p in (tmp_path / "two" / "reference").iterdir() if p.name.startswith("shard")} == {
        "shard-00000.jsonl",
        "shard-00001.jsonl",
    }
    assert not (tmp_path / "two" / "reference" / ".work").exists()
    for one, two in zip(*(metrics(tmp_path / name) for name in ("one", "two")), strict=True):
        for name in ("loss", "grad_norm", *METRICS):
            assert two[name] == pytest.approx(one[name], rel=2e-3, abs=1e-4), name
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=2e-3) for k in weights[0])
    assert read_json(tmp_path / "two" / "reference" / "manifest.json") == read_json(
        tmp_path / "one" / "reference" / "manifest.json"
    )

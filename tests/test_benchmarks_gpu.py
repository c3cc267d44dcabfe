"""The full-size model's benchmark runs in a tiny size on a CPU, writes what it measured, and sees what is wrong."""

import json
import os
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from warm_sicog import warm_python

from benchmarks import gpu_cases
from benchmarks.gpu_cases import NotEqualError
from benchmarks.gpu_decode import Decoder
from benchmarks.gpu_model import FULL_SIZE, Bench, Case, open_mask, swap_pixels
from benchmarks.gpu_proof import Claim, fitting_layers, holds, judged, peak_bytes
from benchmarks.gpu_train import Mix
from sicog.model.configuration import SicogConfig

ROOT = Path(__file__).parents[1]
ABSENT = {"varlen", "flash_attention_2", "liger"}


def smoke(name, out):
    command = [warm_python(), "-m", f"benchmarks.{name}", "--smoke", "--repeats", "1", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.nightly
def test_the_whole_model(tmp_path):
    smoke("gpu_model", tmp_path / "gpu.json")
    train = json.loads((tmp_path / "gpu-train.json").read_text())["rows"]
    assert {(r["stage"], r["views"]) for r in train} == {(s, v) for s in ("align", "pretrain, sft") for v in (1, 7)}
    for row in train:
        if ABSENT & {row["attention"], row["vision"], row["head"]}:
            assert row["note"].startswith("not available") and row["step ms"] is None, row
        else:
            assert not row["note"] and row["step ms"] > 0 and row["error"] <= row["allowed"], row
    sizes = {(r["stage"], r["views"], r["pixels"]): r["pixels MB"] for r in train if r["samples"] > 1 and not r["note"]}
    for (stage, views, pixels), megabytes in sizes.items():
        assert pixels == "uint8" or megabytes == 4 * sizes[stage, views, "uint8"]
    decode = json.loads((tmp_path / "gpu-decode.json").read_text())["rows"]
    for row in decode:
        assert row["note"] == ("not available: needs a CUDA device" if row["graph"] else "")
        assert row["graph"] or all(row[name] > 0 for name in ("vision ms", "prefill ms", "tokens/s")), row


@pytest.mark.slow
def test_a_sampling_run(tmp_path):
    smoke("gpu_sampling", tmp_path / "gpu.json")
    rows = json.loads((tmp_path / "gpu-sampling.json").read_text())["rows"]
    assert [row["batch"] for row in rows] == [3, 6]
    for row in rows:
        assert row["note"] == "" and row["candidates"] == 4 * row["batch"] and row["tokens/s"] > 0, row
        assert 0 < row["in use %"] <= 100 and row["share of the bound %"] is None  # a CPU has no data sheet here


@pytest.mark.slow
@pytest.mark.nightly
def test_training_with_all_options(tmp_path):
    smoke("gpu_train", tmp_path / "gpu.json")
    rows = json.loads((tmp_path / "gpu-train.json").read_text())["rows"]
    ran = [row for row in rows if not row["note"]]
    for row in rows:
        needs_cuda = {*ABSENT, "adamw_8bit"} & {row["attention"], row["kernels"], row["head"], row["optimizer"]}
        assert row["note"].startswith("not available") if needs_cuda else row["tokens/s"] > 0, row
    assert {row["checkpointing"] for row in ran} == {"none", "selective", "full"}
    assert {row["packed"] for row in ran} == {row["compiled"] for row in ran} == {row["lora"] for row in ran}
    # The same rows, the same loss: packed or padded, by whichever attention, with adapters that are still nothing.
    losses = [row["loss"] for row in ran]
    assert max(losses) - min(losses) <= 0.02


@pytest.fixture(scope="module")
def bench():
    return Bench(smoke=True)


@pytest.mark.parametrize("views", [1, 7])
@pytest.mark.parametrize("spoil", [open_mask, swap_pixels])
def test_a_leaking_mask_and_swapped_pixels_are_seen(bench, views, spoil):
    case = Case("pretrain, sft", views, samples=3, head="chunked", checkpointing=False)
    batch = bench.batch(case)
    assert len(set(map(tuple, batch["input_ids"].view(3, -1).tolist()))) == 3
    assert len({x.numpy().tobytes() for x in batch["pixel_values"].chunk(3)}) == 3
    found = bench.check(case, batch)
    assert found["error"] < found["allowed"] / 4  # the other samples of the row leave no trace
    bench.check(replace(case, pixels="uint8"), bench.batch(replace(case, pixels="uint8")))
    with pytest.raises(NotEqualError, match="token losses differ"):
        bench.check(case, spoil(batch))


def test_a_wrong_head_is_seen(bench):
    case = Case("align", 1, samples=2)
    batch = bench.batch(case)
    batch["labels"][:, -5:] = -100
    with pytest.raises(NotEqualError, match="mean of the tokens"):
        bench.check(case, batch)


def test_decoding_with_another_image_or_cache_is_seen(bench, monkeypatch):
    bench.rest()
    decoder = Decoder(bench)
    assert decoder.measure(7, 3, graph=False)["error"] < 0.1
    prompts = decoder.prompts(7, 3)
    monkeypatch.setattr(decoder, "_prompts", replace(prompts, features=prompts.features.flip(0)))
    with pytest.raises(NotEqualError, match="another image"):
        decoder.measure(7, 3, graph=False)


def test_a_case_that_fails_or_hangs_is_a_row_with_a_note(bench, monkeypatch):
    monkeypatch.setattr(gpu_cases, "CASE_S", 1)

    def attempt(measure, by=1e9):
        return gpu_cases.attempt(bench, measure, ("step ms",), "", by)

    def fail():
        raise torch.OutOfMemoryError("no room")

    alarms = []

    def swallow_the_first(*_):
        alarms.append(1)
        if len(alarms) > 1:
            gpu_cases.stop_case()

    def hang():
        end = time.monotonic() + 60
        while time.monotonic() < end:
            torch.ones(8).sum()

    monkeypatch.setattr(gpu_cases, "END_S", 1e9)
    gpu_cases.signal.signal(gpu_cases.signal.SIGALRM, swallow_the_first)
    assert attempt(fail) == {"step ms": None, "note": "out of memory"}
    assert attempt(hang) == {"step ms": None, "note": "TimeoutError: the case took too long"}
    assert attempt(fail, by=0) == {"step ms": None, "note": "out of time"}
    assert attempt(lambda: {"step ms": 1.0}) == {"step ms": 1.0, "note": ""}


def test_rows_are_written_one_by_one(tmp_path):
    rows = gpu_cases.Rows("train steps", tmp_path / "out" / "gpu.json")
    for n in (1, 2):
        rows.add({"step ms": float(n)})
        assert len(json.loads((tmp_path / "out" / "gpu-train.json").read_text())["rows"]) == n


@pytest.mark.slow
def test_the_proof_has_a_verdict_for_every_claim(tmp_path):
    smoke("gpu_proof", tmp_path / "proof.json")
    proof = json.loads((tmp_path / "proof.json").read_text())
    claims = {claim["claim"]: claim for claim in proof["claims"]}
    assert len(claims) == len(proof["claims"]) >= 20 and proof["smoke"] and proof["plan"] == {}
    assert claims["cuDNN's attention is off"]["verdict"] == "right"
    ran = {name for name, claim in claims.items() if claim["measured"] is not None}
    assert {"step of decoding, 2 rows, eager", "speed of selective against full"} <= ran
    for name, claim in claims.items():
        assert name in ran or claim["verdict"].startswith(("not available: needs a CUDA device", "not measured")), claim


def test_a_verdict_follows_from_both_numbers():
    verdict = partial(judged, "a", "ms", tolerance=0.2)
    assert [verdict(10.0, x).verdict for x in (8.1, 11.9, 12.1, 7.0)] == ["right", "right", "wrong", "wrong"]
    assert verdict(None, 3.0).verdict == "measured"
    assert verdict(10.0, None, note="out of memory") == Claim("a", "ms", 10.0, None, "out of memory")
    assert [holds("b", x).verdict for x in (True, False)] == ["right", "wrong"]
    assert holds("b", None, note="no GPU").verdict == "no GPU"


@pytest.mark.parametrize(("gib", "layers"), [(139.7, 28), (79.2, 13), (44.4, 4), (23.5, 2)])
def test_smaller_devices_get_fewer_layers(monkeypatch, gib, layers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    assert fitting_layers() == layers


def test_the_computed_peak_grows_from_full_to_none(bench):
    """Of the full-size model; nothing is built."""
    mix = Mix(bench, n_rows=40, n_batches=2)
    whole = SimpleNamespace(config=SicogConfig.from_dict(json.loads(FULL_SIZE.read_text())))
    peaks = [peak_bytes(whole, mix, level) / 2**30 for level in ("full", "selective", "none")]
    assert 55 < peaks[0] < peaks[1] < peaks[2] < 80

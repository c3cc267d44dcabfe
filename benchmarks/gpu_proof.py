"""`make gpu-proof`: in at most 9 minutes on one GPU, which computed figures are right, and whether results are correct.

Runs the `gpu` tests, then trains and samples with the full-size model of random weights (fewer layers on devices with
less than 140 GiB). Each claim is a row: what was computed beforehand, what was measured, and the verdict. `plan` in the
JSON has the figures that `sicog run --dry-run` uses instead of its assumptions. On a CPU, `--smoke` runs a tiny model:
what needs a GPU is a row with a note.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_sampling, gpu_train
from benchmarks.gpu_cases import attempt, missing, stop_case
from benchmarks.gpu_decode import DECODED, Decoder
from benchmarks.gpu_model import Bench
from benchmarks.gpu_train import Mix, Option
from benchmarks.timing import arguments, hardware, report
from sicog.estimates.arithmetic.flops import Work, parameters
from sicog.estimates.arithmetic.memory import activations
from sicog.model.kernels.document_attention import has_varlen
from sicog.model.part_names import PARTS
from sicog.model.views import ViewSize

ROOT = Path(__file__).parents[1]
# Seconds from the start after which no further case of tests, training, decoding and sampling begins.
TESTS_S, TRAIN_S, DECODE_S, SAMPLE_S = 150, 300, 400, 460
MEMORY_TOLERANCE, SPEED_TOLERANCE = 0.15, 0.2
BATCHES = (32, 128, 256)
# Computed for 28 layers: model FLOP utilisation by checkpointing, milliseconds of a step of decoding by batch, eager or
# as a CUDA graph (7 views, 500 text tokens; context 1,500).
COMPUTED: dict[str, dict[str, float]] = {
    "A100": {"mfu full": 42, "mfu selective": 50, "eager 32": 25, "eager 128": 28, "eager 256": 39, "graph 128": 20.7},
    "H200": {
        "mfu full": 36,
        "mfu selective": 43,
        "eager 32": 19,
        "eager 128": 19.5,
        "eager 256": 20.5,
        "graph 128": 10.5,
    },
}


@dataclass(frozen=True)
class Claim:
    """One row of the table. unit says what the numbers are; verdict: right, wrong, measured, or why there is none."""

    claim: str
    unit: str
    computed: float | None
    measured: float | None
    verdict: str


def judged(
    claim: str, unit: str, computed: float | None, measured: float | None, *, tolerance: float, note: str = ""
) -> Claim:
    """The claim with its verdict: right within this share of the computed value; `measured` without one."""
    if measured is None:
        return Claim(claim, unit, computed, None, note or "not measured")
    if computed is None:
        return Claim(claim, unit, None, measured, "measured")
    right = abs(measured - computed) <= tolerance * abs(computed)
    return Claim(claim, unit, computed, measured, "right" if right else "wrong")


def holds(claim: str, measured: float | bool | None, *, note: str = "") -> Claim:
    """A claim that is true or not."""
    if measured is None:
        return Claim(claim, "1 is yes", 1, None, note or "not measured")
    return Claim(claim, "1 is yes", 1, float(measured), "right" if measured else "wrong")


class Proof:
    """All claims, one group of cases after another. The process's alarm limits each case."""

    def __init__(self, *, smoke: bool) -> None:
        self.bench = Bench(smoke=smoke, layers=None if smoke else fitting_layers())
        kind = torch.cuda.get_device_name() if self.bench.device == "cuda" else ""
        text: Any = self.bench.config.text_config
        whole = not smoke and text.num_hidden_layers == 28
        self.computed = next((COMPUTED[name] for name in COMPUTED if whole and name in kind), {})
        self.plan: dict[str, float] = {}

    def run(self) -> Iterator[Claim]:
        """All claims, as they are found."""
        yield from self.facts()
        yield self.tests()
        yield from self.training()
        self.bench.build()
        self.bench.rest()
        yield from self.decoding()
        yield from self.sampling()

    def facts(self) -> Iterator[Claim]:
        """What the process has switched on and off."""
        yield holds("cuDNN's attention is off", not torch.backends.cuda.cudnn_sdp_enabled())
        weight = self.bench.model.get_input_embeddings().weight
        on_gpu = self.bench.device == "cuda"
        note = "" if on_gpu else "not available: needs a CUDA device"
        yield holds(
            "torch's attention of variable length serves this device", has_varlen(weight) if on_gpu else None, note=note
        )

    def tests(self) -> Claim:
        """The tests marked `gpu`, in a process of their own."""
        claim = "all gpu tests pass"
        if self.bench.device == "cpu" or importlib.util.find_spec("pytest") is None:
            return holds(claim, None, note="not available: needs a CUDA device and pytest")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "gpu", "tests"]
        left = max(10.0, TESTS_S - self.bench.elapsed)
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            return holds(claim, None, note=f"not measured: not finished after {left:.0f} s")
        print(done.stdout[-6000:])
        return holds(claim, done.returncode == 0)

    def training(self) -> Iterator[Claim]:
        """Memory and speed of each level of checkpointing, and what fused kernels are worth."""
        smoke = self.bench.smoke
        mix = Mix(self.bench, n_rows=40 if smoke else 400, n_batches=2 if smoke else 4)
        found: dict[str, dict[str, Any]] = {}
        first = Option("pretrain, sft", checkpointing="full")
        options = {
            "full": first,
            "selective": replace(first, checkpointing="selective"),
            "none": replace(first, checkpointing="none"),
            "selective, Liger's kernels": replace(first, checkpointing="selective", kernels="liger"),
            "selective, Liger's head": replace(first, checkpointing="selective", head="liger"),
        }
        for name, option in options.items():
            expected = [found["full"]["loss"]] if found.get("full", {}).get("loss") is not None else []
            absent = missing(self.bench, option.kernels, option.head)
            found[name] = self._case(
                lambda o=option, e=expected: gpu_train.measure(self.bench, mix, o, e),
                gpu_train.MEASURED,
                absent,
                TRAIN_S,
            )
        for level in ("full", "selective", "none"):
            row, needed = found[level], peak_bytes(self.bench, mix, level) / 2**30
            yield judged(
                f"memory, checkpointing {level}",
                "GiB",
                needed,
                row["peak GiB"],
                tolerance=MEMORY_TOLERANCE,
                note=row["note"],
            )
        for level in ("full", "selective"):
            claim, unit, computed = f"utilisation, checkpointing {level}", "%", self.computed.get(f"mfu {level}")
            row = found[level]
            yield judged(claim, unit, computed, row["MFU %"], tolerance=SPEED_TOLERANCE, note=row["note"])
        yield self._ratio("selective against full", found["full"], found["selective"], 1.17)
        yield self._ratio("Liger's kernels", found["selective"], found["selective, Liger's kernels"], 1.1)
        yield self._ratio("Liger's head against chunks", found["selective"], found["selective, Liger's head"], 0.96)
        best = max((row["MFU %"] for row in found.values() if row["MFU %"]), default=None)
        if best and (rate := self.bench.rates()[0]):
            self.plan |= {"tflops": rate / 1e12, "utilisation": best / 100}

    def _ratio(self, what: str, slow: dict[str, Any], fast: dict[str, Any], computed: float) -> Claim:
        times = [row["step ms"] for row in (slow, fast)]
        measured = times[0] / times[1] if all(times) else None
        expected = computed if self.bench.device == "cuda" else None
        return judged(
            f"speed of {what}", "times", expected, measured, tolerance=0.07, note=fast["note"] or slow["note"]
        )

    def decoding(self) -> Iterator[Claim]:
        """Steps of decoding, eager and as a CUDA graph, and the share of the bandwidth bound."""
        decoder, shares = Decoder(self.bench), list[float]()
        for batch in (2, 3) if self.bench.smoke else BATCHES:
            for graph in (False, True):
                kind = "graph" if graph else "eager"
                absent = missing(self.bench, "graph" if graph else "")
                row = self._case(lambda b=batch, g=graph: decoder.measure(7, b, g), DECODED, absent, DECODE_S)
                computed = self.computed.get(f"{kind} {batch}")
                yield judged(
                    f"step of decoding, {batch} rows, {kind}",
                    "ms",
                    computed,
                    row["step ms"],
                    tolerance=SPEED_TOLERANCE,
                    note=row["note"],
                )
                if graph:
                    share = row["share of the bound %"]
                    yield judged(
                        f"share of the bandwidth, {batch} rows, graph", "%", None, share, tolerance=0, note=row["note"]
                    )
                    shares += [share] if share else []
        if shares and (rate := self.bench.rates()[1]):
            self.plan |= {"bandwidth": rate / 1e12, "decode_share": max(shares) / 100}

    def sampling(self) -> Iterator[Claim]:
        """A whole run with the values of the scripts."""
        batch = 3 if self.bench.smoke else 128
        row = self._case(lambda: gpu_sampling.measure(self.bench, batch), gpu_sampling.COLUMNS, "", SAMPLE_S)
        for name, unit in (("candidates/s", "candidates/s"), ("in use %", "%"), ("share of the bound %", "%")):
            yield judged(f"sampling in {batch} slots: {name}", unit, None, row[name], tolerance=0, note=row["note"])

    def _case(
        self, measure: Callable[[], dict[str, Any]], columns: tuple[str, ...], absent: str, by: float
    ) -> dict[str, Any]:
        result: dict[str, Any] = attempt(self.bench, measure, columns, absent, by)
        return result


def fitting_layers() -> int | None:
    """Layers of the language model for this device: all 28 for 130 GiB and more, fewer for less; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    # 8 bytes of each of 1.7 billion parameters beside the layers, and of 0.233 billion in each.
    return max(2, min(28, int((gib * 0.45 - 12.7) / 1.74)))


def peak_bytes(bench: Bench, mix: Mix, level: Any) -> float:
    """The computed peak of training all parts with all states in bfloat16: 8 bytes a parameter, and activations."""
    states = 8 * sum(parameters(bench.config).values())
    return states + max(
        sum(activations(bench.config, work, PARTS, checkpointing=level).values()) for work in works(bench, mix)
    )


def works(bench: Bench, mix: Mix) -> Iterator[Work]:
    """Each micro-batch as one row."""
    for batch in mix.batches:
        views: tuple[ViewSize, ...] = tuple((int(h), int(w)) for _, e in batch for h, w in e.view_sizes)
        positions = sum(len(e.input_ids) for _, e in batch)
        supervised = sum(label != -100 for _, e in batch for label in e.labels[1:])
        image_tokens = min(positions, len(views) * bench.config.query_grid**2)
        yield Work(views, image_tokens, positions - image_tokens, supervised)


def written(proof: Proof, claims: list[Claim], seconds: float) -> dict[str, Any]:
    """The content of the JSON file."""
    packages = ("torch", "transformers", "numpy")
    text: Any = proof.bench.config.text_config
    return {
        "name": "gpu-proof",
        "date": str(date.today()),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "smoke": proof.bench.smoke,
        "layers": text.num_hidden_layers,
        "seconds": round(seconds, 1),
        "plan": proof.plan,
        "claims": [asdict(claim) for claim in claims],
    }


def main() -> None:
    """Find all claims, print the table, and write it after each of them."""
    options = arguments(__doc__.splitlines()[0])
    signal.signal(signal.SIGALRM, stop_case)
    start = time.monotonic()
    proof, claims = Proof(smoke=options.smoke), list[Claim]()
    for claim in proof.run():
        claims.append(claim)
        print(json.dumps(asdict(claim)), flush=True)
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            new = options.out.with_name(f"{options.out.name}.new")
            new.write_text(json.dumps(written(proof, claims, time.monotonic() - start), indent=2) + "\n")
            new.replace(options.out)
    report("what was computed and what was measured", [asdict(claim) for claim in claims])
    wrong = [claim for claim in claims if claim.verdict == "wrong" or claim.verdict.startswith("NOT EQUAL")]
    must = [claim for claim in wrong if claim.unit == "1 is yes" or claim.verdict.startswith("NOT EQUAL")]
    print(f"{len(wrong)} of {len(claims)} claims are wrong, {len(must)} of them about results")
    if must:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

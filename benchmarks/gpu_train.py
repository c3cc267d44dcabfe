"""Training the full-size model on one CUDA device with packed rows of realistic lengths, one option after another.

Weights are random bfloat16, as in `gpu_model`. There all rows are equal; here they are a seeded mix of text-only rows,
small and large images, and short and long texts, packed as in `packing: epoch`. Each option is a fresh model with the
same weights and learning rate 0. The loss of the first micro-batch must equal that of the first option. Model FLOP
utilisation uses `sicog.estimates.arithmetic.flops`, without the FLOPs that checkpointing repeats.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_cases import END_S, NotEqualError, Rows, attempt, missing, stop_case, synchronize
from benchmarks.gpu_model import TRAINED, Bench
from benchmarks.timing import arguments, report
from sicog.data.collator import PackedCollator, PaddedCollator
from sicog.data.packing import PackLimits, PackRows, plan_epoch
from sicog.estimates.arithmetic.flops import row_cost, work_of
from sicog.model.kernels.choice import Checkpointing, use_attention, use_kernels
from sicog.model.kernels.document_attention import DOCUMENTS, attend_within_documents
from sicog.model.kernels.loss_head import LossHead
from sicog.model.lengths import RowLengths
from sicog.model.pixels import normalise_pixels
from sicog.model.processing import IGNORED_LABEL, Encoded, SicogProcessor
from sicog.model.slicing import plan_slices
from sicog.training.config import LoraSettings
from sicog.training.lora import add_adapters
from sicog.training.parts import set_trainable
from sicog.training.recompute import checkpoint_activations

# (share of the rows, image as a multiple of `scale`, median text tokens): an instruction mix and its long tail.
MIX = ((0.1, None, 300), (0.3, (1.0, 1.0), 80), (0.4, (1.9, 1.43), 250), (0.2, (3.05, 2.29), 700))
TOKENS, VIEWS = 8192, 40  # limits of a packed micro-batch
_LOSS_TOLERANCE = 0.02  # tolerance of bfloat16 between kernels


@dataclass(frozen=True)
class Option:
    """The settings for one row of the table. attention: of the language model; `sdpa` uses a dense mask."""

    stage: str
    packed: bool = True
    attention: str = DOCUMENTS
    checkpointing: Checkpointing = "none"
    head: LossHead = "chunked"
    kernels: str = "plain"
    optimizer: str = "adamw"
    lora: bool = False
    compiled: bool = False


def options(stage: str) -> Iterator[Option]:
    """The plain packed step, then options added or removed one at a time."""
    first = Option(stage, checkpointing="full")
    yield first
    yield replace(first, packed=False, attention="sdpa")
    yield replace(first, checkpointing="selective")
    yield replace(first, checkpointing="none")
    yield replace(first, attention="sdpa")
    yield replace(first, attention="flash_attention_2")
    yield replace(first, kernels="liger")
    yield replace(first, head="liger")
    yield replace(first, optimizer="adamw_8bit")
    if "language_model" in TRAINED[stage]:
        yield replace(first, lora=True)
    yield replace(first, compiled=True)
    yield replace(first, checkpointing="selective", kernels="liger", head="liger", compiled=True)


class Padder:
    """The part of a processor that `PaddedCollator` needs."""

    pad_token_id = 0
    collate = SicogProcessor.collate

    def __init__(self, image_token_id: int) -> None:
        self.image_token_id = image_token_id


class Mix:
    """The micro-batches of all options, as rows, and their FLOPs."""

    def __init__(self, bench: Bench, *, n_rows: int, n_batches: int) -> None:
        rng = np.random.default_rng(0)
        kinds = rng.choice(len(MIX), n_rows, p=[share for share, *_ in MIX])
        rows = [_row(bench, kind, rng) for kind in kinds]
        self.lengths = RowLengths(
            tokens=np.array([len(e.input_ids) for e in rows], dtype=np.int32),
            supervised=np.array([sum(x != IGNORED_LABEL for x in e.labels) for e in rows], dtype=np.int32),
            views=np.array([len(e.view_sizes) for e in rows], dtype=np.int32),
            patches=np.array([int(e.view_sizes.prod(axis=1).sum()) for e in rows], dtype=np.int32),
        )
        flops = row_cost(bench.config).of(self.lengths)
        limits = PackLimits(256 if bench.smoke else TOKENS, VIEWS)
        packed = PackRows.of(self.lengths, flops)
        plan = plan_epoch(packed, limits, global_batch=n_rows // 2, world_size=1, epochs=1, max_steps=None, seed=0)
        chosen = [batch for batch in plan.micro_batches(0) if batch][:n_batches]
        self.batches = [[(str(i), rows[i]) for i in batch] for batch in chosen]
        self.indices = np.concatenate([np.array(batch) for batch in chosen])

    def tokens(self) -> int:
        """Positions of all micro-batches, padding not counted."""
        return int(self.lengths.tokens[self.indices].sum())


def _row(bench: Bench, kind: int, rng: np.random.Generator) -> Encoded:
    """One row of random text and pixels: the image's features, then its text, all of it supervised."""
    _, image, median = MIX[kind]
    scale = bench.config.scale
    text = max(8, int((median / 25 if bench.smoke else median) * rng.lognormal(0, 0.6)))
    text = min(text, 60 if bench.smoke else 2500)
    size = image and (int(image[0] * scale), int(image[1] * scale))
    work = work_of(bench.config, size, text)
    grid = plan_slices(*size, scale=scale, max_slices=bench.config.max_slices).grid if size else None
    n_features = len(work.views) * bench.config.query_grid**2
    assert bench.config.image_token_id is not None
    ids = rng.integers(0, bench.config.image_token_id, work.positions)
    ids[:n_features] = bench.config.image_token_id
    n_patches = sum(h * w for h, w in work.views)
    pixels = torch.from_numpy(rng.integers(0, 256, (n_patches, 588), dtype=np.uint8))
    normalised = normalise_pixels(pixels, bench.config.image_mean, bench.config.image_std)
    return Encoded(
        input_ids=ids.tolist(),
        labels=[IGNORED_LABEL] * (work.positions - text) + ids[work.positions - text :].tolist(),
        pixel_values=normalised.numpy() if n_patches else None,
        view_sizes=np.array(work.views, dtype=np.int64).reshape(-1, 2),
        image_grids=np.array([grid or (0, 0)] if size else [], dtype=np.int64).reshape(-1, 2),
    )


def settle(bench: Bench, option: Option) -> torch.optim.Optimizer:
    """A fresh model with the option switched on, and its optimizer."""
    bench.build()
    model = bench.model.train()
    model.config.loss_head = option.head
    vision = option.attention if option.attention.startswith("flash") else "sdpa"
    language = "sdpa" if option.attention == DOCUMENTS else option.attention
    use_attention(model, language_model=language, vision_tower=vision)
    if option.attention == DOCUMENTS:
        attend_within_documents(model)
    use_kernels(model, "liger" if option.kernels == "liger" else "plain")
    if option.lora:
        add_adapters(model, LoraSettings(dropout=0.0), "bfloat16")
    set_trainable(model, TRAINED[option.stage])
    checkpoint_activations(model, option.checkpointing)
    if option.compiled:
        for layer in model.language_model.base_model.layers:
            layer.compile(backend="eager" if bench.smoke else "inductor")
    trained = [p for p in model.parameters() if p.requires_grad]
    if option.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        eight_bit: torch.optim.Optimizer = AdamW8bit(trained, lr=0.0)
        return eight_bit
    return torch.optim.AdamW(trained, lr=0.0, fused=True)


def batches_of(bench: Bench, mix: Mix, option: Option) -> list[dict[str, Any]]:
    """The micro-batches on the device, packed or padded."""
    image = bench.config.image_token_id
    assert image is not None
    collate: Any = PackedCollator(image) if option.packed else PaddedCollator(Padder(image))  # type: ignore[arg-type]
    batches = []
    for rows in mix.batches:
        batch = collate(rows)
        del batch["ids"]
        batches.append({name: value.to(bench.device) for name, value in batch.items()})
    return batches


MEASURED = ("step ms", "rows/s", "tokens/s", "TFLOP/s", "MFU %", "peak GiB", "loss")


def measure(bench: Bench, mix: Mix, option: Option, expected: Sequence[float]) -> dict[str, Any]:
    """The figures of an option over all micro-batches. expected: the first option's loss, or nothing before it."""
    optimizer = settle(bench, option)
    batches = batches_of(bench, mix, option)
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = [_step(bench, optimizer, batch) for batch in batches]  # also creates moments and compiles
    first = float(found[0])
    if expected and not abs(first - expected[0]) <= _LOSS_TOLERANCE:
        raise NotEqualError(f"the loss is {first:.4f}, that of the first option {expected[0]:.4f}")
    synchronize()
    start = time.perf_counter()
    repeats = 1 if bench.smoke else 3
    for _ in range(repeats):
        for batch in batches:
            _step(bench, optimizer, batch)
    synchronize()
    seconds = (time.perf_counter() - start) / repeats
    parts = tuple(p for p in TRAINED[option.stage] if not (option.lora and p == "language_model"))
    flops = float(row_cost(bench.config, parts).of(mix.lengths)[mix.indices].sum())
    rate, _ = bench.rates()
    peak = torch.cuda.max_memory_allocated() / 2**30 if bench.device == "cuda" else None
    speeds = (1e3 * seconds / len(batches), len(mix.indices) / seconds, mix.tokens() / seconds, flops / seconds / 1e12)
    return dict(zip(MEASURED, (*speeds, rate and 100 * flops / seconds / rate, peak, first), strict=True))


def _step(bench: Bench, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> torch.Tensor:
    """Forward, backward, update; the loss."""
    loss: torch.Tensor = bench.model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def main() -> None:
    """Measure all options and write every row at once."""
    given = arguments(__doc__.splitlines()[0])
    signal.signal(signal.SIGALRM, stop_case)
    bench = Bench(smoke=given.smoke)
    mix = Mix(bench, n_rows=40 if given.smoke else 400, n_batches=2 if given.smoke else 4)
    rows = Rows("train options", given.out)
    for stage in ("pretrain, sft", "align"):
        expected: list[float] = []
        for option in options(stage):
            absent = missing(bench, option.attention, option.kernels, option.head, option.optimizer)
            run = partial(measure, bench, mix, option, expected)
            row = {**vars(option), "tokens": mix.tokens() // len(mix.batches)}
            row = rows.add({**row, **attempt(bench, run, MEASURED, absent, END_S)})
            if not expected and not row["note"]:
                expected.append(row["loss"])
    report(rows.name, rows.rows)
    if wrong := [row for row in rows.rows if row["note"].startswith("NOT EQUAL")]:
        raise SystemExit(f"{len(wrong)} options compute other results than the first")


if __name__ == "__main__":
    main()

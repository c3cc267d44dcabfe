"""The full-size model on one CUDA device: training steps by stage, views and option, and decoding.

Weights are random bfloat16. A step is forward, backward and `torch.optim.AdamW` (fused, all in bfloat16, 6 bytes of
gradient and moments per parameter, so that all parts fit a device with 139 GiB). A real training keeps float32 states
and shards them with ZeRO. The learning rate is 0, so every option can be compared with the same plain losses, token by
token, before timing. Model FLOP utilisation uses `sicog.estimates.arithmetic.flops` without repeated FLOPs of
checkpointing, relative to the data sheet's dense rate. An option that does not fit or is not available is a row with a
note. So is an option with other results; the process then fails at the end. One process takes under 9 minutes on an
H200. Every row is written at once.
"""

from __future__ import annotations

import gc
import inspect
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from benchmarks.gpu_cases import TRAIN_S, NotEqualError, Rows, attempt, missing, rms, seconds, stop_case
from benchmarks.gpu_decode import Decoder, decode_row
from benchmarks.timing import arguments, report
from sicog.estimates.arithmetic.devices import device_rates
from sicog.estimates.arithmetic.flops import Work, training_flops, work_of
from sicog.model.configuration import SicogConfig
from sicog.model.kernels.loss_head import LossHead
from sicog.model.modeling import SicogForConditionalGeneration
from sicog.model.part_names import PARTS
from sicog.model.pixels import normalise_pixels
from sicog.model.slicing import plan_slices

FULL_SIZE = Path(__file__).parents[1] / "recipes" / "configs" / "sicog-7b.json"
TRAINED = {"align": ("projector",), "pretrain, sft": PARTS}
TEXT, PROMPT_TEXT = 500, 60
# Samples in a packed row: about 6,000 positions where everything is trained, 12,000 where the projector is.
PACKED = {("pretrain, sft", 7): 4, ("pretrain, sft", 1): 10, ("align", 7): 8, ("align", 1): 20}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    samples: packed into one row. attention: of the language model; vision: of the vision tower. pixels: as they go to
    the device, normalised floats or uint8 that is normalised there (`normalize_on: device`).
    """

    stage: str
    views: int
    samples: int = 1
    attention: str = "sdpa"
    vision: str = "sdpa"
    pixels: str = "float32"
    head: LossHead = "plain"
    checkpointing: bool = True
    compiled: bool = False


def steps_to_packed(stage: str, views: int) -> Iterator[Case]:
    """The plain way, then one option after another."""
    plain = Case(stage, views)
    yield plain
    yield replace(plain, head="chunked")
    yield replace(plain, head="chunked", checkpointing=False)
    masked = replace(plain, head="chunked", checkpointing=False, samples=PACKED[stage, views])
    yield masked
    yield replace(masked, attention="varlen")


def variants(packed: Case) -> Iterator[Case]:
    """The packed row with one option added, or taken away; the one that takes the compiler's time last."""
    yield replace(packed, pixels="uint8")
    yield replace(packed, head="plain")
    yield replace(packed, checkpointing=True)
    yield replace(packed, head="liger")
    yield replace(packed, vision="flash_attention_2")
    yield replace(packed, compiled=True)


def varlen_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Torch's own attention over rows of different lengths laid end to end; [1, H, T, D] -> [1, T, H, D]."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters  # the signature differs between versions of torch
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    options |= {"enable_gqa": True} if "enable_gqa" in known else {}
    ends, longest = kwargs["cu_seq_lens_q"], kwargs["max_length_q"]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=kwargs["scaling"], **options)
    assert isinstance(out, torch.Tensor)  # without the softmax normaliser
    return out[None], None


AttentionInterface.register("varlen", varlen_attention)


class Bench:
    """The model on its device, and the settings that change between cases."""

    def __init__(self, *, smoke: bool, layers: int | None = None) -> None:
        """layers: of the language model, for a device that does not hold all."""
        self.smoke = smoke
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.start = time.monotonic()
        self.config: SicogConfig = SicogConfig.from_dict(smoke_fields() if smoke else json.loads(FULL_SIZE.read_text()))
        if layers is not None:
            text: Any = self.config.text_config
            text.num_hidden_layers = layers
            text.layer_types = text.layer_types[:layers]
        self.text_tokens, self.prompt_tokens = (20, 6) if smoke else (TEXT, PROMPT_TEXT)
        self.build()
        self.references: dict[int, tuple[torch.Tensor, float]] = {}

    def build(self) -> None:
        """A fresh model, always with the same weights."""
        self.model: Any = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.stage = ""
        gc.collect()
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(self.device):
            self.model = SicogForConditionalGeneration(self.config)
        torch.set_default_dtype(torch.float32)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def rates(self) -> tuple[float, float] | tuple[None, None]:
        """(FLOP/s, bytes/s) of the device's data sheet; None for one that is not known."""
        rates = device_rates(torch.cuda.get_device_name()) if self.device == "cuda" else None
        return rates or (None, None)

    def work(self, views: int, text_tokens: int | None = None) -> tuple[Work, tuple[int, int]]:
        """One sample's work and the grid of its slices. All text is supervised."""
        scale = self.config.scale
        size = (scale, scale) if views == 1 else (scale * 1024 // 336, scale * 768 // 336)
        plan = plan_slices(*size, scale=scale, max_slices=self.config.max_slices)
        work = work_of(self.config, size, text_tokens or self.text_tokens)
        assert len(work.views) == views
        return work, plan.grid or (0, 0)

    def settle(self, case: Case) -> None:
        """Switch the model to a case."""
        model = self.model.train()
        if case.stage != self.stage:
            self.optimizer = None
            modules = dict(zip(PARTS, (model.vision_tower, model.resampler, model.language_model), strict=True))
            for name, module in modules.items():
                module.requires_grad_(name in TRAINED[case.stage])
            model.vision_tower.freeze_unused()
            trained = [p for p in model.parameters() if p.requires_grad]
            self.optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
            self.stage = case.stage
        model.config.loss_head = case.head
        model.language_model.config._attn_implementation = case.attention
        model.vision_tower.config._attn_implementation = case.vision
        switch = "enable" if case.checkpointing else "disable"
        # The methods' names since Transformers 5.23, and the older ones.
        method = getattr(model, f"activation_checkpointing_{switch}", None)
        method = method or getattr(model, f"gradient_checkpointing_{switch}")
        method({"use_reentrant": False}) if case.checkpointing else method()
        if case.checkpointing:
            model.disable_input_require_grads()
        for layer in model.language_model.base_model.layers:
            layer._compiled_call_impl = None
            if case.compiled:
                layer.compile(backend="eager" if self.smoke else "inductor")

    def samples(self, views: int, n: int, *, first: int = 0, text_tokens: int | None = None) -> dict[str, torch.Tensor]:
        """Consecutive samples from this number on: their text and their pixels, uint8, on the host."""
        work, grid = self.work(views, text_tokens)
        n_features, n_patches = len(work.views) * self.config.query_grid**2, sum(h * w for h, w in work.views)
        image_token = self.config.image_token_id
        assert image_token is not None
        ids, pixels = [], []
        for number in range(first, first + n):
            generator = torch.Generator().manual_seed(number)
            ids.append(torch.randint(image_token, (work.positions,), generator=generator))
            ids[-1][:n_features] = image_token
            pixels.append(torch.randint(256, (n_patches, 588), generator=generator, dtype=torch.uint8))
        return {
            "input_ids": torch.cat(ids)[None],
            "pixel_values": torch.cat(pixels),
            "view_sizes": torch.tensor(work.views * n),
            "image_grids": torch.tensor([grid] * n),
        }

    def batch(self, case: Case, *, first: int = 0) -> dict[str, Any]:
        """The case's row, its pixels still on the host; more than one sample carry what keeps them apart."""
        work, _ = self.work(case.views)
        n = case.samples
        batch: dict[str, Any] = {**self.samples(case.views, n, first=first)}
        batch["input_ids"] = batch["input_ids"].to(self.device)
        is_text = torch.arange(work.positions, device=self.device) >= work.positions - work.supervised
        batch["labels"] = batch["input_ids"].masked_fill(~is_text.repeat(n), -100)
        batch["position_ids"] = torch.arange(work.positions, device=self.device).repeat(n)[None]
        if case.pixels == "float32":
            pixels = batch["pixel_values"]
            batch["pixel_values"] = normalise_pixels(pixels, self.config.image_mean, self.config.image_std)
        if self.device == "cuda":
            batch["pixel_values"] = batch["pixel_values"].pin_memory()
        if case.attention == "varlen":
            ends = torch.arange(n + 1, dtype=torch.int32, device=self.device) * work.positions
            batch |= {"cu_seq_lens_q": ends, "max_length_q": work.positions}
        elif n > 1:
            row_of = torch.arange(n, device=self.device).repeat_interleave(work.positions)
            batch["attention_mask"] = (row_of[:, None] == row_of).tril()[None, None]
        return batch

    def forward(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the loss of every token, [samples, text], by the plain head from what this pass gave it."""
        given: list[torch.Tensor] = []
        hook = self.model.language_model.base_model.register_forward_hook(
            lambda _module, _inputs, out: given.append(out.last_hidden_state.detach())
        )
        try:
            loss = self.model(**{**batch, "pixel_values": batch["pixel_values"].to(self.device)}).loss
        finally:
            hook.remove()
        n, head = len(batch["image_grids"]), self.model.get_output_embeddings()
        ids, hidden = batch["input_ids"].view(n, -1), given[0].view(n, -1, given[0].shape[-1])
        text = self.text_tokens
        with torch.no_grad():  # one sample at a time, because all logits may not fit
            tokens = [
                nn.functional.cross_entropy(head(hidden[i, -text - 1 : -1]).float(), ids[i, -text:], reduction="none")
                for i in range(n)
            ]
        return loss, torch.stack(tokens)

    @torch.no_grad()
    def reference(self, case: Case) -> tuple[torch.Tensor, float]:
        """The token losses of all samples, computed one by one the plain way, and the tolerance for other ways.

        The tolerance is a quarter of the smallest effect of a mask open to the previous sample, or of wrong pixels.
        """
        if case.views not in self.references:
            plain = Case(case.stage, case.views)
            self.settle(plain)
            n = max(n for (_, views), n in PACKED.items() if views == case.views)
            losses = torch.cat([self.forward(self.batch(plain, first=i))[1] for i in range(n)])
            pair = self.batch(replace(plain, samples=2))
            off = [rms(self.forward(spoil(pair))[1] - losses[:2]) for spoil in (open_mask, swap_pixels)]
            self.references[case.views] = losses, float(torch.stack([off[0][1], *off[1]]).min()) / 4
        return self.references[case.views]

    def check(self, case: Case, batch: dict[str, Any]) -> dict[str, float]:
        """Run a case forward and backward. Returns its loss, and the largest difference of a sample to the plain way.

        Raises `NotEqualError` if that is too large, or if the head's loss is not the mean of the token losses.
        """
        losses, bound = self.reference(case)
        self.settle(case)
        loss, tokens = self.forward(batch)
        loss.backward()
        error = float(rms(tokens - losses[: len(tokens)]).max())
        if not error <= bound:
            raise NotEqualError(f"token losses differ by {error:.3g} from one sample at a time, allowed {bound:.3g}")
        found, mean = float(loss.detach()), float(tokens.mean())
        if not abs(found - mean) <= 0.01:
            raise NotEqualError(f"the loss is {found:.4f}, the mean of the tokens' {mean:.4f}")
        return {"loss": found, "error": error, "allowed": bound}

    def step(self, batch: dict[str, Any]) -> torch.Tensor:
        """Forward, backward, update; the loss."""
        assert self.optimizer is not None
        loss = self.model(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def rest(self) -> None:
        """End training: keep what decoding needs, and free the rest."""
        self.settle(Case(self.stage or "align", 1))
        self.optimizer = None
        self.model.eval()
        self.clear()

    def clear(self) -> None:
        """Free everything that a case may have left, mainly a failed one."""
        self.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def open_mask(batch: dict[str, Any]) -> dict[str, Any]:
    """The row with a mask that lets every sample see the previous ones."""
    n = batch["input_ids"].shape[1]
    mask = torch.ones(n, n, dtype=torch.bool, device=batch["input_ids"].device).tril()
    return {**batch, "attention_mask": mask[None, None]}


def swap_pixels(batch: dict[str, Any]) -> dict[str, Any]:
    """The row with the pixels of its first two samples swapped."""
    first, second, *others = batch["pixel_values"].chunk(len(batch["image_grids"]))
    return {**batch, "pixel_values": torch.cat([second, first, *others])}


MEASURED = (
    *("step ms", "samples/s", "TFLOP/s", "MFU %", "peak GiB", "first step s", "pixels MB", "to device ms"),
    *("loss", "error", "allowed"),
)


def train_row(bench: Bench, case: Case) -> dict[str, Any]:
    """One row of the table of training steps."""
    work, _ = bench.work(case.views)
    absent = missing(bench, case.attention, case.vision, case.head)
    row = {**vars(case), "positions": case.samples * work.positions}
    return {**row, **attempt(bench, lambda: measure(bench, case), MEASURED, absent, TRAIN_S)}


def measure(bench: Bench, case: Case) -> dict[str, Any]:
    """The figures of a case, after a check of its results."""
    batch = bench.batch(case)
    bench.reference(case)  # once for all cases, so it is not part of the first step
    begin = time.perf_counter()
    found = bench.check(case, batch)
    first = time.perf_counter() - begin
    bench.model.zero_grad(set_to_none=True)
    pixels = batch["pixel_values"]
    copy = seconds(lambda: pixels.to(bench.device, copy=True))
    batch["pixel_values"] = pixels.to(bench.device)
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = seconds(lambda: bench.step(batch), warm=2, repeats=2 if bench.smoke else 4)
    work, _ = bench.work(case.views)
    flops = case.samples * sum(training_flops(bench.config, work, TRAINED[case.stage]).values())
    peak = torch.cuda.max_memory_allocated() / 2**30 if bench.device == "cuda" else None
    rate, _ = bench.rates()
    figures = (step * 1e3, case.samples / step, flops / step / 1e12, rate and 100 * flops / step / rate, peak, first)
    return dict(zip(MEASURED, (*figures, pixels.nbytes / 1e6, copy * 1e3, *found.values()), strict=True))


def smoke_fields() -> dict[str, Any]:
    """A tiny model for a smoke test."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64, "tie_word_embeddings": False}
    text["initializer_range"] = 0.2  # so that losses of this narrow model differ like those of the full size
    own = {"scale": 56, "query_grid": 2, "image_token_id": 63, "row_separator_id": 10, "slice_separator_id": 11}
    return {"vision_config": {**vision, "image_size": 56, "patch_size": 14}, "text_config": {**text, **heads}, **own}


def main() -> None:
    """Measure all cases, the most important ones first, because time may run out."""
    options = arguments(__doc__.splitlines()[0])
    signal.signal(signal.SIGALRM, stop_case)
    bench = Bench(smoke=options.smoke)
    train, decode = Rows("train steps", options.out), Rows("decode steps", options.out)
    for stage, views in (("pretrain, sft", 7), ("align", 1), ("pretrain, sft", 1), ("align", 7)):
        for case in steps_to_packed(stage, views):
            last = train.add(train_row(bench, case))
        best = case if not last["note"] else replace(case, attention="sdpa")
        for variant in variants(best):
            train.add(train_row(bench, variant))
    bench.rest()
    decoder = Decoder(bench)
    sizes = (1, 2) if options.smoke else (1, 8, 64, 256)
    for graph, views, batch in product((False, True), (1, 7), sizes):  # a failed recording must not affect the others
        decode.add(decode_row(decoder, views, batch, graph))
    for table in (train, decode):
        report(table.name, table.rows, table.out)
    if wrong := [row for row in (*train.rows, *decode.rows) if row["note"].startswith("NOT EQUAL")]:
        raise SystemExit(f"{len(wrong)} rows compute other results than the plain way")


if __name__ == "__main__":
    main()

"""The full-size model on one CUDA device: training steps by stage, views and option, and decoding.

Random weights in bfloat16. A step is forward, backward and `torch.optim.AdamW` (fused, everything in bfloat16, 6 bytes
of gradient and moments a parameter, so that all parts fit a device of 139 GiB; a real training keeps float32 states and
divides them with ZeRO). The learning rate is 0: the same data then gives the same loss with every option, and it is
shown. Model FLOP utilisation counts `sicog.model.flops` without what checkpointing repeats, of the data sheet's dense
rate. An option that does not fit or is not there is a row with a note. One process, under 9 minutes on an H200.
"""

from __future__ import annotations

import gc
import inspect
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from benchmarks.timing import arguments, report
from sicog.generation.slots import SlotCache, SlotLayer
from sicog.model.configuration import SicogConfig
from sicog.model.flops import PARTS, Work, training_flops, work_of
from sicog.model.loss_head import LossHead
from sicog.model.modeling import SicogForConditionalGeneration
from sicog.model.slicing import plan_slices

FULL_SIZE = Path(__file__).parents[1] / "recipes" / "configs" / "sicog-7b.json"
# Data sheets: dense bfloat16 FLOP/s and bytes/s of the memory, by what the device's name holds.
DEVICES = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.039e12)}
BUDGET_S = 8 * 60  # no case begins after that
TRAINED = {"align": ("projector",), "pretrain, sft": PARTS}
TEXT = 500
# Samples in a packed row: about 6,000 positions where everything is trained, 12,000 where the projector is.
PACKED = {("pretrain, sft", 7): 4, ("pretrain, sft", 1): 10, ("align", 7): 8, ("align", 1): 20}


@dataclass(frozen=True)
class Case:
    """One row of the table. samples: packed into one row. attention: of the language model."""

    stage: str
    views: int
    samples: int = 1
    attention: str = "sdpa"
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
    """The packed row with one option added, or taken away."""
    yield replace(packed, compiled=True)
    yield replace(packed, checkpointing=True)
    yield replace(packed, head="plain")
    yield replace(packed, head="liger")


def varlen_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Torch's own attention over rows of different lengths laid end to end; [1, H, T, D] -> [1, T, H, D]."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters  # it differs between versions of torch
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    options |= {"enable_gqa": True} if "enable_gqa" in known else {}
    ends, longest = kwargs["cu_seq_lens_q"], kwargs["max_length_q"]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=kwargs["scaling"], **options)
    return out[None], None


AttentionInterface.register("varlen", varlen_attention)


class Bench:
    """The model on its device, and what is switched between cases."""

    def __init__(self, *, smoke: bool) -> None:
        self.smoke = smoke
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.start = time.monotonic()
        self.config: SicogConfig = SicogConfig.from_dict(smoke_fields() if smoke else json.loads(FULL_SIZE.read_text()))
        self.text_tokens = 20 if smoke else TEXT
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(self.device):
            self.model: Any = SicogForConditionalGeneration(self.config)
        torch.set_default_dtype(torch.float32)
        self.optimizer: torch.optim.Optimizer | None = None
        self.stage = ""

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() - self.start > BUDGET_S

    def rates(self) -> tuple[float, float] | tuple[None, None]:
        """(FLOP/s, bytes/s) of the device's data sheet; None for one that is not known."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else "CPU"
        return next((rates for key, rates in DEVICES.items() if key in name), (None, None))

    def work(self, views: int) -> tuple[Work, tuple[int, int]]:
        """One sample's work and the grid of its slices. All text is supervised."""
        scale = self.config.scale
        size = (scale, scale) if views == 1 else (scale * 1024 // 336, scale * 768 // 336)
        plan = plan_slices(*size, scale=scale, max_slices=self.config.max_slices)
        work = work_of(self.config, size, self.text_tokens)
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
        switch = "enable" if case.checkpointing else "disable"
        # The methods' names since Transformers 5.23, and the ones before.
        method = getattr(model, f"activation_checkpointing_{switch}", None)
        method = method or getattr(model, f"gradient_checkpointing_{switch}")
        method({"use_reentrant": False}) if case.checkpointing else method()
        if case.checkpointing:
            model.disable_input_require_grads()
        for layer in model.language_model.base_model.layers:
            layer._compiled_call_impl = None
            if case.compiled:
                layer.compile(backend="eager" if self.smoke else "inductor")

    def batch(self, case: Case) -> dict[str, Any]:
        """A row of `samples` equal samples; more than one carry what keeps them apart."""
        work, grid = self.work(case.views)
        torch.manual_seed(1)
        n_features = len(work.views) * self.config.query_grid**2
        sample = torch.randint(5, 50, (work.positions,))
        sample[:n_features] = self.config.image_token_id
        labels = torch.full_like(sample, -100)
        labels[-work.supervised :] = sample[-work.supervised :]
        n, n_patches = case.samples, sum(h * w for h, w in work.views)
        batch: dict[str, Any] = {
            "input_ids": sample.repeat(n)[None].to(self.device),
            "labels": labels.repeat(n)[None].to(self.device),
            "position_ids": torch.arange(work.positions).repeat(n)[None].to(self.device),
            "pixel_values": torch.randn(n_patches, 588).repeat(n, 1).to(self.device, torch.bfloat16),
            "view_sizes": torch.tensor(work.views * n),
            "image_grids": torch.tensor([grid] * n),
        }
        # The first label of a sample stands behind the last position of the one before.
        batch["labels"][:, :: work.positions] = -100
        if case.attention == "varlen":
            ends = torch.arange(n + 1, dtype=torch.int32, device=self.device) * work.positions
            batch |= {"cu_seq_lens_q": ends, "max_length_q": work.positions}
        elif n > 1:
            row_of = torch.arange(n, device=self.device).repeat_interleave(work.positions)
            batch["attention_mask"] = (row_of[:, None] == row_of).tril()[None, None]
        return batch

    def step(self, batch: dict[str, Any]) -> torch.Tensor:
        """Forward, backward, update; the loss."""
        assert self.optimizer is not None
        loss = self.model(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def clear(self) -> None:
        """Let go of everything that a case may have left, a failed one above all."""
        self.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def seconds(run: Callable[[], Any], *, warm: int, repeats: int) -> float:
    """Median seconds of a run, the device's work included."""
    times = []
    for i in range(warm + repeats):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        if i >= warm:
            times.append(time.perf_counter() - start)
    return median(times)


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train_row(bench: Bench, case: Case) -> dict[str, Any]:
    """One row of the table of training steps."""
    row: dict[str, Any] = dict(vars(case))
    work, _ = bench.work(case.views)
    row["positions"] = case.samples * work.positions
    measured = dict.fromkeys(("step ms", "samples/s", "TFLOP/s", "MFU %", "peak GiB", "first step s", "loss"))
    note = "out of time" if bench.out_of_time else ""
    if not note:
        bench.clear()
        try:
            measured = measure(bench, case)
        except torch.OutOfMemoryError:
            note = "out of memory"
        except (RuntimeError, ValueError, ImportError, TypeError) as error:  # the option is not there on this machine
            note = f"{type(error).__name__}: {' '.join(str(error).split())[:60]}"
        bench.clear()
    return {**row, **measured, "note": note}


def measure(bench: Bench, case: Case) -> dict[str, Any]:
    """The figures of a case."""
    bench.settle(case)
    batch = bench.batch(case)
    begin = time.perf_counter()
    loss = float(bench.step(batch))
    first = time.perf_counter() - begin
    step = seconds(lambda: bench.step(batch), warm=1, repeats=2 if bench.smoke else 4)
    work, _ = bench.work(case.views)
    flops = case.samples * sum(training_flops(bench.config, work, TRAINED[case.stage]).values())
    peak = torch.cuda.max_memory_allocated() / 2**30 if bench.device == "cuda" else None
    rate, _ = bench.rates()
    return {
        "step ms": step * 1e3,
        "samples/s": case.samples / step,
        "TFLOP/s": flops / step / 1e12,
        "MFU %": rate and 100 * flops / step / rate,
        "peak GiB": peak,
        "first step s": first,
        "loss": loss,
    }


def decode_row(bench: Bench, batch: int, context: int, graph: bool) -> dict[str, Any]:
    """One row of the table of decoding: every sequence `context` long. graph: one step replayed as a CUDA graph."""
    measured = dict.fromkeys(("step ms", "tokens/s", "bound ms", "share of the bound %"))
    note = "out of time" if bench.out_of_time else ""
    if graph and bench.device == "cpu":
        note = "needs a CUDA device"
    if not note:
        bench.clear()
        try:
            measured = measure_decoding(bench, batch, context, graph)
        except torch.OutOfMemoryError:
            note = "out of memory"
        except RuntimeError as error:
            note = f"{type(error).__name__}: {' '.join(str(error).split())[:60]}"
    return {"batch": batch, "context": context, "graph": graph, **measured, "note": note}


@torch.no_grad()
def measure_decoding(bench: Bench, batch: int, context: int, graph: bool) -> dict[str, Any]:
    """The figures of decoding. The bound: each step reads the weights it uses and all keys and values."""
    text: Any = bench.config.text_config
    repeats = 2 if bench.smoke else 16
    cache = filled_cache(bench, batch, context, context + repeats + 16)
    ids_B1 = torch.full((batch, 1), 5, device=bench.device)

    def step() -> torch.Tensor:
        n = cache.get_seq_length() + 1
        out = bench.model(
            input_ids=ids_B1,
            attention_mask=torch.ones(batch, 1, 1, n, dtype=torch.bool, device=bench.device),
            position_ids=torch.full((batch, 1), n - 1, device=bench.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return ids_B1.copy_(out.logits[:, -1].argmax(-1, keepdim=True))

    run: Callable[[], Any] = step
    if graph:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            step()
        run = recorded.replay
    taken = seconds(run, warm=4, repeats=repeats)
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kept = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * head_width  # bytes of a position
    table = 0 if text.tie_word_embeddings else text.vocab_size * text.hidden_size  # looked up, not read
    weights = 2 * (sum(p.numel() for p in bench.model.language_model.parameters()) - table)
    _, rate = bench.rates()
    bound = rate and (weights + kept * batch * context) / rate
    return {
        "step ms": taken * 1e3,
        "tokens/s": batch / taken,
        "bound ms": bound and bound * 1e3,
        "share of the bound %": bound and 100 * bound / taken,
    }


def filled_cache(bench: Bench, batch: int, context: int, columns: int) -> SlotCache:
    """A cache as after prompts of `context` positions, with room up to `columns`."""
    text: Any = bench.config.text_config
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache, shape = SlotCache(), (batch, text.num_key_value_heads, columns, head_width)
    for _ in range(text.num_hidden_layers):
        layer = SlotLayer()
        layer.keys, layer.values = (torch.randn(shape, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
        layer.length, layer.is_initialized = context, True
        cache.layers.append(layer)
    return cache


def smoke_fields() -> dict[str, Any]:
    """A model that is done in a moment."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64, "tie_word_embeddings": False}
    own = {"scale": 56, "query_grid": 2, "image_token_id": 63, "row_separator_id": 10, "slice_separator_id": 11}
    return {"vision_config": {**vision, "image_size": 56, "patch_size": 14}, "text_config": {**text, **heads}, **own}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row as soon as it is there: what was measured stays known if the process is stopped."""
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Measure all cases; the ones that say most come first, for the time may run out."""
    options = arguments(__doc__.splitlines()[0])
    bench = Bench(smoke=options.smoke)
    rows: list[dict[str, Any]] = []
    for stage, views in (("pretrain, sft", 7), ("align", 1), ("pretrain, sft", 1), ("align", 7)):
        for case in steps_to_packed(stage, views):
            rows.append(shown(train_row(bench, case)))
        best = case if not rows[-1]["note"] else replace(case, attention="sdpa")
        rows += [shown(train_row(bench, variant)) for variant in variants(best)]
    out = options.out
    report("training steps", rows, out and out.with_name(f"{out.stem}-train{out.suffix}"))
    bench.optimizer = None
    bench.model.eval()
    bench.model.language_model.config._attn_implementation = "sdpa"
    for layer in bench.model.language_model.base_model.layers:
        layer._compiled_call_impl = None
    context = 20 if options.smoke else 1600
    sizes = (1, 2) if options.smoke else (1, 8, 32, 64, 128, 256)
    rows = [shown(decode_row(bench, batch, context, graph)) for graph in (False, True) for batch in sizes]
    report("decoding", rows, out and out.with_name(f"{out.stem}-decode{out.suffix}"))


if __name__ == "__main__":
    main()

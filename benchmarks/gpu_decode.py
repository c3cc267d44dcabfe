"""Decoding of the full-size model at real prompt lengths: vision, prefill and single steps; a part of `gpu_model`.

Prompts are encoded, run and forked into slots as in the sampler, and the steps are its own. Before timing, the logits
of a step are compared with those of the whole sequence without a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_cases import DECODE_S, NotEqualError, attempt, missing, rms, seconds
from sicog.generation.decoding import Decoding, Prefilled, run_tokens
from sicog.generation.sampling import SamplingConfig
from sicog.model.kernels.slot_attention import attend_to_slots

if TYPE_CHECKING:
    from benchmarks.gpu_model import Bench

PROMPTS = 8  # maximum number of different prompts; 8 with 7 views are about 9,000 positions
CHECKED = 4  # number of steps; the last one is compared


@dataclass(frozen=True)
class Prompts:
    """The prompts of a batch, and their time on the device."""

    rows: list[list[int]]
    features: torch.Tensor
    prefilled: Prefilled
    vision_s: float
    prefill_s: float


class Decoder:
    """Decoding cases of one model. The last prompts are cached, because consecutive batches share them."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.model = bench, bench.model
        attend_to_slots(self.model)
        self._key = (0, 0)
        self._prompts: Prompts | None = None

    @torch.no_grad()
    def prompts(self, views: int, n: int) -> Prompts:
        """`n` prompts about images with this many views, after prefill."""
        if self._key != (views, n) or self._prompts is None:
            self._prompts, self._key = None, (views, n)
            bench = self.bench
            # At least two, because the check needs another image.
            batch = bench.samples(views, max(n, 2), text_tokens=bench.prompt_tokens)
            rows = batch["input_ids"].view(max(n, 2), -1).tolist()
            pixels = (batch["pixel_values"].to(bench.device), batch["view_sizes"], batch["image_grids"])
            used = n * len(pixels[0]) // max(n, 2), n * len(pixels[1]) // max(n, 2), n
            features_NE = self.model.encode_images(*pixels)
            run = features_NE[: n * len(features_NE) // max(n, 2)]
            vision_s = seconds(lambda: self.model.encode_images(*(x[:k] for x, k in zip(pixels, used, strict=True))))
            prefill_s = seconds(lambda: run_tokens(self.model, rows[:n], pad_id=0, features_NE=run))
            prefilled = run_tokens(self.model, rows[:n], pad_id=0, features_NE=run)
            self._prompts = Prompts(rows, features_NE, prefilled, vision_s, prefill_s)
        return self._prompts

    @torch.no_grad()
    def measure(self, views: int, batch: int, graph: bool) -> dict[str, Any]:
        """The figures of the sampler's own steps. The bound: each reads the weights it uses and all keys and values."""
        bench, prompts = self.bench, self.prompts(views, min(batch, PROMPTS))
        parents = [i % min(batch, PROMPTS) for i in range(batch)]
        n_prompt, repeats = len(prompts.rows[0]), 2 if bench.smoke else 16
        sampling = SamplingConfig(temperature=0, max_new_tokens=CHECKED + repeats + 4)
        columns = n_prompt + sampling.max_new_tokens
        decoding = Decoding(self.model, sampling, [], n_slots=batch, columns=columns)
        if not graph:
            decoding.recorded = None
        decoding.join(prompts.prefilled, parents, list(range(batch)), torch.zeros(batch, 0))
        for _ in range(CHECKED):
            decoding.step()
        logits_BV = decoding.logits.clone()
        fed_BN = decoding.tokens[:, :CHECKED]
        error = self._check(prompts, parents, fed_BN, logits_BV)
        step_s = seconds(decoding.step, warm=2, repeats=repeats)
        bound = self._bound(batch * n_prompt)
        return {
            "prompts": min(batch, PROMPTS),
            "prompt": n_prompt,
            "vision ms": prompts.vision_s * 1e3,
            "prefill ms": prompts.prefill_s * 1e3,
            "step ms": step_s * 1e3,
            "tokens/s": batch / step_s,
            "bound ms": bound and bound * 1e3,
            "share of the bound %": bound and 100 * bound / step_s,
            "error": error,
        }

    def _check(self, prompts: Prompts, parents: list[int], fed_BN: torch.Tensor, logits_BV: torch.Tensor) -> float:
        """Compare the first and last row. Returns the largest difference, relative to the effect of another image."""
        errors = []
        for row in {0, len(parents) - 1}:
            own, other = parents[row], (parents[row] + 1) % len(prompts.rows)
            right, wrong = (self._at_once(prompts, own, image, fed_BN[row]) for image in (own, other))
            found, right, wrong = (x[x.isfinite()] for x in (logits_BV[row], right, wrong))  # no placeholder
            errors.append(float(rms(found - right) / rms(wrong - right)))
        if not max(errors) < 0.25:
            raise NotEqualError(f"a step's logits differ by {max(errors):.2f} of what another image would change")
        return max(errors)

    def _at_once(self, prompts: Prompts, prompt: int, image: int, fed_N: torch.Tensor) -> torch.Tensor:
        """[V] logits after a prompt and `fed_N`, run without a cache, with the features of some image."""
        features_NE = prompts.features.chunk(len(prompts.rows))[image]
        ids = torch.cat([torch.tensor(prompts.rows[prompt], device=fed_N.device), fed_N])
        out = self.model(input_ids=ids[None], image_features=features_NE, use_cache=False, logits_to_keep=1)
        return out.logits[0, -1]

    def _bound(self, positions: int) -> float | None:
        """Seconds to read the weights that a step uses and so many positions' keys and values."""
        weights, kept = read_bytes(self.bench)
        _, rate = self.bench.rates()
        return rate and (weights + kept * positions) / rate


def read_bytes(bench: Bench) -> tuple[int, int]:
    """(bytes of the weights that a step of decoding reads, bytes of a position's keys and values), in bfloat16."""
    text: Any = bench.config.text_config
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kept = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * head_width
    table = 0 if text.tie_word_embeddings else text.vocab_size * text.hidden_size  # only looked up
    return 2 * (sum(p.numel() for p in bench.model.language_model.parameters()) - table), kept


DECODED = (
    *("prompts", "prompt", "vision ms", "prefill ms", "step ms", "tokens/s"),
    *("bound ms", "share of the bound %", "error"),
)


def decode_row(decoder: Decoder, views: int, batch: int, graph: bool) -> dict[str, Any]:
    """One row of the table of decoding. graph: one step replayed as a CUDA graph."""
    absent = missing(decoder.bench, "graph" if graph else "")
    measured = attempt(decoder.bench, lambda: decoder.measure(views, batch, graph), DECODED, absent, DECODE_S)
    return {"views": views, "batch": batch, "graph": graph, **measured}

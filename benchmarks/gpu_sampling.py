"""A whole sampling run of the full-size model at several batch sizes: candidates/s, tokens/s, share of the bound.

Random weights in bfloat16, images of 7 views as uint8 noise, the paper's three candidates of an image, queues of four
times the slots. Vision, prefill, forks, refills and the drain are all included. With random weights answers would not
end, so a share of the vocabulary counts as end tokens, and lengths are about geometric. Tokens are sampled with the
values of `recap_scripts/configs`. The bound has two parts, each at the data sheet's rate: the arithmetic of all images
and prompts, and the bytes of decoding, which are the weights once for every full batch of tokens, and the keys and
values of every attended position.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.gpu_cases import DECODE_S, Rows, attempt, stop_case, synchronize
from benchmarks.gpu_decode import read_bytes
from benchmarks.gpu_model import Bench
from benchmarks.timing import arguments, report
from sicog.estimates.arithmetic.flops import forward_flops
from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig
from sicog.model.image_processing import SicogImageProcessor
from sicog.model.processing import SHARED_WITH_CONFIG

FILLS, MEAN_LENGTH, LONGEST = 4, 150, 600
COLUMNS = (
    *("candidates", "new tokens", "seconds", "candidates/s", "tokens/s", "in use %"),
    *("prompts bound s", "decode bound s", "share of the bound %"),
)
SAMPLING = Path(__file__).parents[1] / "recap_scripts" / "configs" / "captioning.yaml"


class BareProcessor:
    """The part of a processor that the sampler needs, without a tokenizer. Prompts are placeholders and random text."""

    def __init__(self, bench: Bench) -> None:
        config = bench.config
        fields = {name: getattr(config, name) for name in SHARED_WITH_CONFIG}
        self.image_processor = SicogImageProcessor(**fields)
        self.tokenizer = SimpleNamespace(eos_token_id=None)
        self.end_token_id, self.pad_token_id = None, 0
        work, _ = bench.work(7, bench.prompt_tokens)
        self.n_features = len(work.views) * config.query_grid**2
        self.n_prompt, self.image_token_id = work.positions, config.image_token_id
        self.size = (config.scale * 1024 // 336, config.scale * 768 // 336)

    def encode_text(self, turns: Sequence[Any], *_: Any, **__: Any) -> tuple[list[int], None]:
        """The same prompt for the same text; its last token is the style's."""
        assert self.image_token_id is not None
        text = np.random.default_rng(0).integers(self.image_token_id, size=self.n_prompt - self.n_features).tolist()
        text[-1] = sum(turns[0].text.encode()) % self.image_token_id
        return [self.image_token_id] * self.n_features + text, None

    def decode(self, ids: Sequence[int]) -> str:
        """No text."""
        return ""

    def picture(self, number: int) -> Picture:
        """Noise of 7 views, created when it is read."""
        width, height = self.size

        def read() -> Image.Image:
            return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))

        return Picture(self.size, read)


def measure(bench: Bench, batch: int) -> dict[str, Any]:
    """The figures of a run with this many slots."""
    processor = BareProcessor(bench)
    mean, longest = (5, 12) if bench.smoke else (MEAN_LENGTH, LONGEST)
    given = yaml.safe_load(SAMPLING.read_text())
    values = {name: given[name] for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
    sampling = SamplingConfig(**values, max_new_tokens=longest, batch_size=batch)
    sampler = Sampler(bench.model, processor, sampling)
    sampler.end_ids = list(range(max(1, bench.config.text_config.vocab_size // mean)))
    requests = [Request("cod", "step-by-step", 2), Request("dd", "detailed")]
    jobs = [Job(str(i), [processor.picture(i)], requests) for i in range(-(-batch * FILLS // 3))]
    sampler.run(jobs[: -(-batch // 3)])  # warm up: choose kernels, allocate memory
    sampler.steps = sampler.steps_used = 0
    synchronize()
    start = time.perf_counter()
    samples = [sample for job in sampler.run(jobs) for sample in check_samples(job)]
    synchronize()
    elapsed = time.perf_counter() - start
    n_tokens = sum(sample.n_tokens for sample in samples)
    # A sampled token attends to the prompt and all tokens before it. The first one comes with the prompt.
    looked_at = sum(n * processor.n_prompt + n * (n + 1) // 2 for n in (s.n_tokens for s in samples))
    weights, kept = read_bytes(bench)
    flops, rate = bench.rates()
    work, _ = bench.work(7, bench.prompt_tokens)
    prompts_s = flops and len(jobs) * sum(forward_flops(bench.config, replace(work, supervised=1)).values()) / flops
    decode_s = rate and (n_tokens / batch * weights + looked_at * kept) / rate
    used = 100 * sampler.steps_used / sampler.steps
    share = 100 * (prompts_s + decode_s) / elapsed if prompts_s and decode_s else None
    speeds = (len(samples), n_tokens, elapsed, len(samples) / elapsed, n_tokens / elapsed, used)
    return dict(zip(COLUMNS, (*speeds, prompts_s, decode_s, share), strict=True))


def check_samples(answer: Any) -> Any:
    """The samples of a job. Noise can always be read."""
    assert not isinstance(answer, ValueError)
    return answer


def main() -> None:
    """Measure all batch sizes. Print and write each row at once."""
    options = arguments(__doc__.splitlines()[0])
    signal.signal(signal.SIGALRM, stop_case)
    bench = Bench(smoke=options.smoke)
    bench.rest()
    torch.manual_seed(0)
    table = Rows("sampling runs", options.out)
    for batch in (3, 6) if options.smoke else (8, 32, 64, 128, 256):
        table.add({"batch": batch, **attempt(bench, lambda batch=batch: measure(bench, batch), COLUMNS, "", DECODE_S)})
    report(table.name, table.rows, table.out)


if __name__ == "__main__":
    main()

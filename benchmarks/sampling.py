"""Candidates on the mini model: the sampler against plain generation, and the used share of its slots.

P7: the plain way is `model.generate` with a batch of one for every candidate, as the original pipeline runs: the image
is encoded and the prompt run each time. Ours encodes an image once, runs its prompt once and forks the cache. Greedy
tokens are compared first; the times are of greedy decoding too, with every answer at its full length.
P8: a sampled run of 20 times the slots, with the end, where slots become empty. Every tenth image is sampled again
alone, and its tokens are compared. The table also has the share for batches that wait for their longest answer.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.timing import arguments, compare, report
from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig, user_turns
from sicog.mini.parts_training.mini_parts import SHIPPED, unpack
from sicog.mini.render import render_scene
from sicog.mini.write_world import MiniDataConfig, draw_split
from sicog.model import load_parts
from sicog.tasks import CAPTIONING

PROMPTS = {name: CAPTIONING.style(name).template for name in ("cod", "dd")}
# (candidates of an image, images): one image alone, and several that decode together.
CASES = [(3, 1), (6, 1), (6, 4)]
SLOTS, FILLS = 32, 20
COLUMNS = ("figure", "candidates", "images", "new tokens", "plain s", "ours s", "times faster", "in use %", "waiting %")


def mini_model() -> tuple[Any, Any]:
    """The mini run's parts with a new projector. The language model writes captions that end on their own."""
    torch.manual_seed(0)  # seed of the projector, which decides the length of the captions
    with tempfile.TemporaryDirectory() as folder:
        unpack(SHIPPED, Path(folder))
        tower, language_model = (Path(folder) / name for name in ("vision_tower", "language_model"))
        model, processor = load_parts(tower, language_model, scale=112, query_grid=4)
    return model.eval(), processor


def pictures(n: int) -> list[Image.Image]:
    """Images of the mini world."""
    return [render_scene(scene) for scene in draw_split(MiniDataConfig(unlabelled=n), "unlabelled")]


def plain(model: Any, processor: Any, images: list[Image.Image], n: int, new_tokens: int) -> list[list[int]]:
    """The answers, one candidate and one image at a time."""
    answers = []
    for image in images:
        for _ in range(n):
            encoded = processor.encode(user_turns(PROMPTS["cod"], 1), [image], add_generation_prompt=True)
            batch = processor.collate([encoded], padding_side="left", with_labels=False)
            out = model.generate(**batch, do_sample=False, max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0)
            answers.append(out[0, batch["input_ids"].shape[1] :].tolist())
    return answers


def ours(sampler: Sampler, images: list[Image.Image], n: int) -> list[list[int]]:
    """The same answers from the sampler."""
    jobs = [Job(str(i), [Picture.of(image)], [Request("cod", PROMPTS["cod"], n)]) for i, image in enumerate(images)]
    samples: list[Any] = sampler.run(jobs)
    return [list(sample.token_ids) for job in samples for sample in job]


def candidates(model: Any, processor: Any, n: int, n_images: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """A row of P7, after a check that the tokens are equal."""
    images = pictures(n_images)
    sampler = Sampler(model, processor, SamplingConfig(temperature=0, max_new_tokens=new_tokens, batch_size=64))
    sampler.end_ids = [-1]  # no answer ends early
    want, found = plain(model, processor, images, n, new_tokens), ours(sampler, images, n)
    assert want == found, "greedy tokens differ"
    times = compare(
        lambda: plain(model, processor, images, n, new_tokens), lambda: ours(sampler, images, n), repeats=repeats
    )
    values = ("P7", n, n_images, n * n_images * new_tokens, times.plain_s, times.ours_s, times.ratio, None, None)
    return dict(zip(COLUMNS, values, strict=True))


def slots(model: Any, processor: Any, n_slots: int, fills: int, new_tokens: int) -> dict[str, Any]:
    """The row of P8, after a check that some answers equal those of their image alone."""
    requests = [Request("cod", PROMPTS["cod"], 2), Request("dd", PROMPTS["dd"])]
    n_images = -(-n_slots * fills // 3)
    jobs = [Job(f"image-{i}", [Picture.of(image)], requests) for i, image in enumerate(pictures(n_images))]
    sampler = Sampler(model, processor, SamplingConfig(max_new_tokens=new_tokens, batch_size=n_slots))
    start = time.process_time()
    found = sampler.run(jobs)
    seconds = time.process_time() - start
    alone = Sampler(model, processor, sampler.sampling.model_copy(update={"batch_size": 1}))
    assert all(alone.run([jobs[i]])[0] == found[i] for i in range(0, n_images, max(10, n_images // 10)))
    lengths = [sample.n_tokens + (sample.finish_reason == "stop") for job in found for sample in job]
    batches = [lengths[i : i + n_slots] for i in range(0, len(lengths), n_slots)]
    waiting = sum(lengths) / sum(max(batch) * n_slots for batch in batches)
    used = sampler.steps_used / sampler.steps
    values = ("P8", len(lengths), n_images, sum(lengths), None, seconds, None, 100 * used, 100 * waiting)
    return dict(zip(COLUMNS, values, strict=True))


def main() -> None:
    """Measure all cases."""
    options = arguments(__doc__.splitlines()[0])
    model, processor = mini_model()
    new_tokens = 4 if options.smoke else 64
    cases = [(3, 1)] if options.smoke else CASES
    rows = [candidates(model, processor, *case, new_tokens, options.repeats) for case in cases]
    rows.append(slots(model, processor, *((4, 3, 6) if options.smoke else (SLOTS, FILLS, 320))))
    report("sampling", rows, options.out)


if __name__ == "__main__":
    main()

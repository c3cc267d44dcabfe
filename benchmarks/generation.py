"""Candidates of one image: the sampler against plain generation, one candidate after another.

The plain way is `model.generate` with a batch of one for every candidate, as the original pipeline runs: the image is
encoded and the prompt run each time. Ours encodes an image once, runs its prompt once and forks the cache, and decodes
the candidates of many images together. Greedy tokens are compared first; times are those of greedy decoding too, so
that both ways make the same tokens. Every answer has its full length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from benchmarks.timing import arguments, compare, report
from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig, user_turns
from sicog.model import SicogConfig, SicogForConditionalGeneration, SicogProcessor

PROMPT = "Please generate a detailed caption of this image. Describe the image step-by-step."
# (candidates of an image, images): of one image alone, and of several that decode together.
CASES = [(3, 1), (6, 1), (6, 3)]


def small_model(*, smoke: bool) -> tuple[SicogForConditionalGeneration, SicogProcessor]:
    """Random weights of a small model: 21 M parameters, views of 12 x 12 patches in 36 features each."""
    tokenizer = byte_tokenizer()
    width = 32 if smoke else 384
    vision = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 3 if smoke else 8}
    text = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 2 if smoke else 8}
    config = SicogConfig(
        vision_config={**vision, "num_attention_heads": width // 32, "image_size": 168, "patch_size": 14},
        text_config={
            "model_type": "qwen2",
            **text,
            "num_attention_heads": width // 32,
            "num_key_value_heads": max(1, width // 96),
            "vocab_size": len(tokenizer) + 1,
            "tie_word_embeddings": True,
            "max_position_embeddings": 2048,
        },
        scale=168,
        query_grid=6,
        image_token_id=len(tokenizer),
        row_separator_id=tokenizer.encode("\n")[-1],
        slice_separator_id=tokenizer.encode(",")[-1],
    )
    torch.manual_seed(0)
    model = SicogForConditionalGeneration(config).eval()
    if torch.cuda.is_available():
        model = model.cuda()
    return model, SicogProcessor.from_config(config, tokenizer)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and ChatML's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], special_tokens=True)
    fast.eos_token, fast.pad_token = "<|im_end|>", "<|endoftext|>"
    return fast


def picture(number: int) -> Image.Image:
    """A blurry picture of 448 x 336 pixels: 7 views."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((448, 336), Image.Resampling.BICUBIC)


def plain(model: Any, processor: Any, images: list[Image.Image], n: int, new_tokens: int) -> list[list[int]]:
    """The answers, candidate after candidate, image after image."""
    answers = []
    for image in images:
        for _ in range(n):
            encoded = processor.encode(user_turns(PROMPT, 1), [image], add_generation_prompt=True)
            batch = processor.collate([encoded], padding_side="left", with_labels=False)
            batch = {name: x.to(model.device) for name, x in batch.items()}
            out = model.generate(**batch, do_sample=False, max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0)
            answers.append(out[0, batch["input_ids"].shape[1] :].tolist())
    return answers


def ours(sampler: Sampler, images: list[Image.Image], n: int) -> list[list[int]]:
    """The same answers from the sampler."""
    jobs = [Job(str(i), [Picture.of(image)], [Request("cod", PROMPT, n)]) for i, image in enumerate(images)]
    samples: list[Any] = sampler.run(jobs)
    return [list(sample.token_ids) for job in samples for sample in job]


def measure(model: Any, processor: Any, n: int, n_images: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """One row of the table, after the tokens were found equal."""
    images = [picture(i) for i in range(n_images)]
    sampler = Sampler(model, processor, SamplingConfig(temperature=0, max_new_tokens=new_tokens, batch_size=64))
    sampler.end_ids = [-1]  # no answer ends early
    want, found = plain(model, processor, images, n, new_tokens), ours(sampler, images, n)
    assert want == found, "greedy tokens differ"
    times = compare(
        lambda: plain(model, processor, images, n, new_tokens), lambda: ours(sampler, images, n), repeats=repeats
    )
    return {
        "candidates": n,
        "images": n_images,
        "prompt tokens": len(sampler.prompts(Job("0", [Picture.of(images[0])], [Request("cod", PROMPT)]))[0]),
        "new tokens": new_tokens,
        "plain s": times.plain_s,
        "ours s": times.ours_s,
        "times faster": times.ratio,
        "ours tokens/s": n * n_images * new_tokens / times.ours_s,
    }


def main() -> None:
    """Measure all cases."""
    options = arguments(__doc__.splitlines()[0])
    model, processor = small_model(smoke=options.smoke)
    new_tokens = 4 if options.smoke else 48
    cases = [(3, 1)] if options.smoke else CASES
    rows = [measure(model, processor, *case, new_tokens, options.repeats) for case in cases]
    report("generation", rows, options.out)


if __name__ == "__main__":
    main()

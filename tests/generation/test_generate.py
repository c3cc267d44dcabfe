"""Greedy answers are the same alone, without a cache, in left-padded batches of any company, and in the sampler."""

import pytest
from generation.worlds import picture

from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig, user_turns
from sicog.model.checkpoints import load_checkpoint

NEW = 10
# (prompt, numbers of its pictures): unsliced, sliced wide and tall, several, none; short and long.
ROWS = [
    ("Describe the image step-by-step.", (0,)),
    ("How many objects are there?", ()),
    ("Compare. " + "There is a small blue square. " * 4, (1, 2)),
    ("", (4,)),
    ("user", ()),
    ("One, two, three", (3, 0, 6)),
]


@pytest.fixture(scope="module")
def loaded(tiny_dir):
    return load_checkpoint(tiny_dir)


def encode(processor, prompt, numbers):
    images = [picture(n) for n in numbers]
    return processor.encode(user_turns(prompt, len(images)), images, add_generation_prompt=True)


def generate(loaded, rows, ends, **options):
    """`model.generate` on these rows as one batch; each answer up to its end token."""
    model, processor = loaded
    batch = processor.collate([encode(processor, *row) for row in rows], padding_side="left", with_labels=False)
    values = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": ends, "pad_token_id": processor.pad_token_id}
    out = model.generate(**batch, **values, **options)[:, batch["input_ids"].shape[1] :].tolist()
    return [answer[: next((i for i, t in enumerate(answer) if t in ends), len(answer))] for answer in out]


@pytest.fixture(scope="module")
def alone(loaded):
    """The answers one at a time, and end tokens: the checkpoint's and two that stop some answers early."""
    free = [generate(loaded, [row], [-1])[0] for row in ROWS]
    ends = sorted({free[0][2], free[2][5], *loaded[0].generation_config.eos_token_id})
    return [generate(loaded, [row], ends)[0] for row in ROWS], ends


def test_answers_differ_and_end_at_different_places(alone):
    answers, _ = alone
    assert len({tuple(a) for a in answers}) > 2 and len({len(a) for a in answers}) > 1


def test_without_a_cache(loaded, alone):
    answers, ends = alone
    assert [generate(loaded, [row], ends, use_cache=False)[0] for row in ROWS] == answers


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (1, 4), (1, 2), (3, 3, 1, 3)])
def test_in_left_padded_batches(loaded, alone, order):
    answers, ends = alone
    assert generate(loaded, [ROWS[i] for i in order], ends) == [answers[i] for i in order]


def test_a_batch_without_a_cache(loaded, alone):
    answers, ends = alone
    assert generate(loaded, ROWS, ends, use_cache=False) == answers


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_in_the_sampler(loaded, alone, batch_size, monkeypatch):
    answers, ends = alone
    monkeypatch.setattr(loaded[0].generation_config, "eos_token_id", ends)
    jobs = [
        Job(str(i), [Picture.of(picture(n)) for n in numbers], [Request("cot", prompt, 2), Request("cod", prompt)])
        for i, (prompt, numbers) in enumerate(ROWS)
    ]
    sampler = Sampler(*loaded, SamplingConfig(temperature=0, max_new_tokens=NEW, batch_size=batch_size))
    assert any(len(answer) < NEW for answer in answers)
    for samples, answer in zip(sampler.run(jobs), answers, strict=True):
        assert [list(s.token_ids) for s in samples] == [answer] * 3
        assert {s.finish_reason for s in samples} == {"length" if len(answer) == NEW else "stop"}

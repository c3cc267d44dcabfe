"""Beam search through plain `generate`: as likely as greedy or more, seeded by id, penalty on new tokens only."""

import logging

import pytest
import torch
from generation.worlds import picture

from sicog.generation.engines.beams import BeamSearch
from sicog.generation.engines.engine import load_engine
from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig, user_turns
from sicog.model.checkpoints import load_checkpoint

JOBS = [Job(f"job-{i}", [Picture.of(picture(i))], [Request("cod", "Describe the image.", 2)]) for i in range(3)]


@pytest.fixture(scope="module")
def loaded(tiny_dir):
    return load_checkpoint(tiny_dir)


def score(loaded, job, token_ids):
    """The log-probability of an answer that was not ended."""
    model, processor = loaded
    images = [p.read() for p in job.images]
    encoded = processor.encode(user_turns(job.requests[0].prompt, 1), images, add_generation_prompt=True)
    batch = processor.collate([encoded], padding_side="left", with_labels=False)
    n = batch["input_ids"].shape[1]
    batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([token_ids])], dim=1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        logits = model(**batch).logits[0, n - 1 : -1].log_softmax(-1)
    return float(logits.gather(1, torch.tensor(token_ids)[:, None]).sum())


def test_one_beam_is_greedy_and_more_are_not_less_likely(loaded):
    sampling = SamplingConfig(temperature=0, max_new_tokens=6)
    greedy = Sampler(*loaded, sampling).run(JOBS)
    one, four = (BeamSearch(*loaded, sampling, beams=n).run(JOBS) for n in (1, 4))
    assert one == greedy
    for job, a, b in zip(JOBS, greedy, four, strict=True):
        assert len(a[0].token_ids) == len(b[0].token_ids) == 6 and a[0].finish_reason == "length"
        assert score(loaded, job, b[0].token_ids) >= score(loaded, job, a[0].token_ids) - 1e-4
    assert four != greedy


def test_sampled_beams_depend_on_the_id_alone(loaded):
    engine = BeamSearch(*loaded, SamplingConfig(temperature=1.0, max_new_tokens=8), beams=2)
    together = engine.run(JOBS)
    torch.manual_seed(99)
    assert engine.run(JOBS[1:2])[0] == together[1]
    assert together[0][0].token_ids != together[0][1].token_ids
    assert engine.status().startswith(f"{sum(map(len, together)) + len(together[1])} candidates, ")


def test_the_penalty_is_the_samplers(loaded):
    sampling = SamplingConfig(temperature=0, max_new_tokens=12, repetition_penalty=5.0)
    assert BeamSearch(*loaded, sampling, beams=1).run(JOBS) == Sampler(*loaded, sampling).run(JOBS)


def test_an_image_that_cannot_be_read_is_the_jobs_error_and_the_log_says_what_runs(tiny_dir, caplog):
    def broken():
        raise ValueError("damaged")

    with caplog.at_level(logging.WARNING):
        engine = load_engine(tiny_dir, SamplingConfig(temperature=0, max_new_tokens=2), beams=2)
    assert "plain `generate`" in caplog.text
    bad = Job("bad", [Picture((60, 60), broken)], [Request("cod", "Describe.")])
    found = engine.run([bad, JOBS[0]])
    assert isinstance(found[0], ValueError) and found[1][0].style == "cod"

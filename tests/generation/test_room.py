"""room.py and the sampler: as many slots as fit, and fewer after out-of-memory, with the same samples."""

import pytest
import torch
from generation.worlds import picture
from transformers import Qwen2Config

from sicog.generation import room
from sicog.generation.decoding import Decoding
from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig
from sicog.model.checkpoints import load_checkpoint

CONFIG = SamplingConfig(temperature=1.0, max_new_tokens=6, batch_size=8)


@pytest.fixture(scope="module")
def loaded(tiny_dir):
    return load_checkpoint(tiny_dir)


@pytest.fixture(scope="module")
def jobs():
    return [Job(f"job-{i}", [Picture.of(picture(i))], [Request("dd", "Describe it.", 4)]) for i in range(5)]


@pytest.fixture(scope="module")
def expected(loaded, jobs):
    return Sampler(*loaded, CONFIG).run(jobs)


def test_bytes_of_a_token_of_qwen2_7b():
    """measures: 57,344 bytes, that is 2 x 28 layers x 4 heads x 128 x 2 bytes."""
    config = Qwen2Config(hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4)
    assert room.cache_bytes_per_token(config, torch.bfloat16) == 57_344


def test_a_cpu_is_not_asked(loaded):
    assert room.fitting_rows(loaded[0], 10**9) is None


def test_slots_are_what_fits_the_longest_prompt(loaded, jobs, expected, monkeypatch, capsys):
    model, _ = loaded
    sampler = Sampler(*loaded, CONFIG)
    tokens = max(len(ids) for job in jobs for ids in sampler.prompts(job)) + CONFIG.max_new_tokens
    row = tokens * room.cache_bytes_per_token(model.config.text_config, model.dtype)
    monkeypatch.setattr(room, "_free_bytes", lambda _: int(3.5 * row / room._SHARE))
    assert sampler.run(jobs) == expected and sampler.slots == 3
    assert "3 sequences at once, which fit the device, instead of 8" in capsys.readouterr().err
    monkeypatch.setattr(room, "_free_bytes", lambda _: row // 2)
    with pytest.raises(ValueError, match=r"a sequence of \d+ tokens needs .* Lower max_new_tokens"):
        Sampler(*loaded, CONFIG).run(jobs)


def test_out_of_memory_halves_the_slots_and_gives_the_same_samples(loaded, jobs, expected, monkeypatch, capsys):
    step, widths = Decoding.step, []

    def small(self):
        widths.append(len(self))
        if len(self) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self)

    monkeypatch.setattr(Decoding, "step", small)
    sampler = Sampler(*loaded, CONFIG)
    assert sampler.run(jobs) == expected
    assert sampler.slots == 2 and max(widths[-5:]) == 2
    assert capsys.readouterr().err.count("out of memory; trying again with") == 2  # 4 were too many too
    assert sampler.run(jobs[:1]) == expected[:1] and widths[-1] <= 2  # it is remembered


def test_a_single_sequence_that_does_not_fit_is_an_error(loaded, jobs, monkeypatch):
    def full(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Decoding, "step", full)
    with pytest.raises(ValueError, match="out of memory with a single sequence"):
        Sampler(*loaded, CONFIG).run(jobs)

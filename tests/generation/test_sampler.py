"""The sampler against `model.generate`, one prompt at a time, and against itself in other batches."""

import threading
from collections import Counter

import pytest
import torch
from generation.worlds import picture

from sicog.generation.decoding import Decoding
from sicog.generation.sampler import LongPromptError, Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig, user_turns
from sicog.model.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def loaded(tiny_dir):
    return load_checkpoint(tiny_dir)


def _jobs(n=7):
    return [
        Job(
            f"job-{i}",
            [Picture.of(picture(i))],
            [Request("cod", "Describe the image step-by-step." + " there is" * i, 2), Request("dd", "Describe it.")],
        )
        for i in range(n)
    ]


def _generate(model, processor, prompt, images, n, end_ids):
    """Plain Transformers: one prompt, greedy."""
    encoded = processor.encode(user_turns(prompt, len(images)), images, add_generation_prompt=True)
    batch = processor.collate([encoded], padding_side="left", with_labels=False)
    out = model.generate(
        **batch, do_sample=False, max_new_tokens=n, eos_token_id=end_ids, pad_token_id=processor.pad_token_id
    )
    ids = out[0, batch["input_ids"].shape[1] :].tolist()
    return ids[: next((i for i, t in enumerate(ids) if t in end_ids), len(ids))]


def _tokens(results):
    return [[s.token_ids for s in samples] for samples in results]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_greedy_tokens_equal_generate_one_at_a_time(loaded, batch_size):
    model, processor = loaded
    jobs = _jobs() + [
        Job("two", [Picture.of(picture(1)), Picture.of(picture(2))], [Request("cod", "Compare.")]),
        Job("none", [], [Request("direct", "How many?"), Request("cot", "There is a large red circle.")]),
    ]
    sampler = Sampler(model, processor, SamplingConfig(temperature=0, max_new_tokens=12, batch_size=batch_size))
    for job, samples in zip(jobs, sampler.run(jobs), strict=True):
        images = [p.read() for p in job.images]
        for request in job.requests:
            expected = _generate(model, processor, request.prompt, images, 12, sampler.end_ids)
            found = [s for s in samples if s.style == request.style]
            assert len(found) == request.n
            for sample in found:
                assert list(sample.token_ids) == expected
                assert sample.text == processor.decode(expected)
                assert sample.finish_reason == ("length" if len(expected) == 12 else "stop")


def test_samples_do_not_depend_on_the_batch_or_the_company(loaded):
    config = SamplingConfig(temperature=1.0, top_p=0.95, max_new_tokens=30, seed=5)
    jobs = _jobs()
    runs = {}
    for batch_size in (1, 3, 5, 64):
        sampler = Sampler(*loaded, config.model_copy(update={"batch_size": batch_size}))
        runs[batch_size] = sampler.run(jobs)
    assert runs[1] == runs[3] == runs[5] == runs[64]
    alone = Sampler(*loaded, config).run(jobs[3:4])
    backwards = Sampler(*loaded, config).run(jobs[::-1])
    assert alone[0] == runs[1][3] and backwards[::-1] == runs[1]


def test_candidates_differ_and_seeds_matter(loaded):
    config = SamplingConfig(temperature=1.0, max_new_tokens=8)
    job = Job("a", [Picture.of(picture(0))], [Request("cod", "Describe.", 20)])
    (samples,) = Sampler(*loaded, config).run([job])
    assert [s.index for s in samples] == list(range(20))
    assert len({s.token_ids for s in samples}) == 20
    (other,) = Sampler(*loaded, config.model_copy(update={"seed": 1})).run([job])
    assert all(a.token_ids != b.token_ids for a, b in zip(samples, other, strict=True))


def test_the_status_counts_what_is_finished(loaded, monkeypatch):
    """Also while a block is under way, of which nothing is on the disk yet."""
    sampler = Sampler(*loaded, SamplingConfig(temperature=1.0, max_new_tokens=5, batch_size=2))
    said, collect = [], Sampler._collect

    def collected(self, *args):
        collect(self, *args)
        said.append(self.status())

    monkeypatch.setattr(Sampler, "_collect", collected)
    assert sampler.status().startswith("0 candidates, 0.0 tokens/s")
    sampler.run([Job("a", [Picture.of(picture(1))], [Request("cod", "Describe.", 5)])])
    counts = [int(line.split(" ")[0]) for line in said]
    assert counts == sorted(counts) and counts[-1] == 5 and 0 < counts[len(counts) // 2] < 5


def test_more_samples_of_one_image_than_slots(loaded):
    config = SamplingConfig(temperature=1.0, max_new_tokens=5, batch_size=4)
    job = Job("a", [Picture.of(picture(1))], [Request("cod", "Describe.", 11), Request("dd", "Detail.", 3)])
    few = Sampler(*loaded, config).run([job])
    many = Sampler(*loaded, config.model_copy(update={"batch_size": 64})).run([job])
    assert few == many and len(few[0]) == 14


def test_an_image_is_encoded_and_its_prompts_prefix_run_once(loaded, monkeypatch):
    model, processor = loaded
    encoded, positions = [], []
    encode_images = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda p, v, g: encoded.append(len(g)) or encode_images(p, v, g))
    hook = model.language_model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: positions.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    shared = Picture.of(picture(1))
    jobs = [Job(f"q{i}", [shared], [Request("direct", f"How many {i}?", 3)]) for i in range(4)]
    sampler = Sampler(model, processor, SamplingConfig(temperature=0, max_new_tokens=1))
    results = sampler.run(jobs)
    hook.remove()
    assert encoded == [1]
    full = sum(len(sampler.prompts(job)[0]) for job in jobs)
    assert sum(positions) < full / 2
    one_by_one = [Sampler(model, processor, sampler.sampling).run([job])[0] for job in jobs]
    assert results == one_by_one


def test_coming_images_are_prepared_and_encoded_while_others_decode(loaded, monkeypatch):
    """By another thread; the answers are those of encoding in between."""
    model, processor = loaded
    jobs = _jobs(12)
    plain = SamplingConfig(temperature=1.0, max_new_tokens=12, seed=3, batch_size=6)
    events = []

    def noted(name, function):
        def call(*args, **kwargs):
            events.append((name, threading.current_thread() is threading.main_thread()))
            return function(*args, **kwargs)

        return call

    expected = Sampler(model, processor, plain).run(jobs)
    ahead = Sampler(model, processor, plain, encode_ahead=True)
    monkeypatch.setattr(model, "encode_images", noted("encode_images", model.encode_images))
    monkeypatch.setattr(processor.image_processor, "prepare", noted("prepare", processor.image_processor.prepare))
    monkeypatch.setattr(Decoding, "step", noted("step", Decoding.step))
    assert ahead.run(jobs) == expected
    for name in ("prepare", "encode_images"):
        assert sum(event[0] == name for event in events) == 12
        assert (name, False) in events
    assert Sampler(model, processor, plain).encode_ahead is False  # on a CPU


def test_slots_are_refilled(loaded):
    config = SamplingConfig(temperature=1.5, top_p=1.0, max_new_tokens=60, batch_size=16)
    sampler = Sampler(*loaded, config)
    # The end token is made likely, so that lengths differ widely.
    jobs = [Job(f"{i}", [], [Request("direct", "How many?", 2)]) for i in range(160)]
    sampler.end_ids = list(range(12))
    results = sampler.run(jobs)
    lengths = Counter(s.n_tokens for samples in results for s in samples)
    assert len(lengths) > 20
    assert sampler.steps_used / sampler.steps > 0.92  # 20 times the slots, some answers three times the mean


def test_rows_that_come_in_take_slots_and_the_others_stay(loaded, monkeypatch):
    config = SamplingConfig(temperature=1.5, top_p=1.0, max_new_tokens=60, batch_size=8)
    jobs = [Job(f"{i}", [], [Request("direct", "How many?" + " red" * (i % 5), 2)]) for i in range(40)]
    joins, buffers, join = [], set(), Decoding.join

    def noted(self, prompts, parents, keys, noise):
        before = list(self.keys)
        join(self, prompts, parents, keys, noise)
        assert all(now is was for now, was in zip(self.keys, before, strict=True) if was is not None)
        joins.append(len(keys))
        buffers.add(self.cache.buffers[0][0].data_ptr())

    monkeypatch.setattr(Decoding, "join", noted)
    sampler = Sampler(*loaded, config)
    sampler.end_ids = list(range(12))
    results = sampler.run(jobs)
    assert len(joins) > 20 and sum(joins) == 80 and len(buffers) == 1
    assert _tokens([sampler.run([job])[0] for job in jobs[:6]]) == _tokens(results[:6])


def test_end_token_stops_and_is_not_text(loaded):
    sampler = Sampler(*loaded, SamplingConfig(temperature=0, max_new_tokens=9))
    job = Job("a", [Picture.of(picture(0))], [Request("dd", "Describe it.")])
    ((whole,),) = sampler.run([job])
    assert whole.n_tokens == 9 and whole.finish_reason == "length"
    stop_at = whole.token_ids[4]
    sampler.end_ids = [stop_at]
    ((cut,),) = sampler.run([job])
    assert cut.finish_reason == "stop"
    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(stop_at)]


def test_repetition_penalty_counts_new_tokens_only(loaded):
    job = Job("a", [Picture.of(picture(2))], [Request("dd", "Describe it.")])
    ((plain,),) = Sampler(*loaded, SamplingConfig(temperature=0, max_new_tokens=30)).run([job])
    config = SamplingConfig(temperature=0, max_new_tokens=30, repetition_penalty=50.0)
    ((varied,),) = Sampler(*loaded, config).run([job])
    assert varied.token_ids[0] == plain.token_ids[0]  # the prompt does not count
    assert len(set(varied.token_ids)) > len(set(plain.token_ids))


@pytest.mark.parametrize("several", [True, False])
def test_the_end_tokens_of_the_checkpoint_stop_as_in_generate(loaded, monkeypatch, several):
    model, processor = loaded
    job = Job("a", [Picture.of(picture(0))], [Request("dd", "Describe it.")])
    sampling = SamplingConfig(temperature=0, max_new_tokens=9)
    ((whole,),) = Sampler(model, processor, sampling).run([job])
    assert whole.n_tokens == 9
    ends = [processor.end_token_id, whole.token_ids[4]] if several else whole.token_ids[4]
    monkeypatch.setattr(model.generation_config, "eos_token_id", ends)
    encoded = processor.encode(user_turns("Describe it.", 1), [picture(0)], add_generation_prompt=True)
    batch = processor.collate([encoded], padding_side="left", with_labels=False)
    out = model.generate(**batch, do_sample=False, max_new_tokens=9)[0, batch["input_ids"].shape[1] :].tolist()
    ((cut,),) = Sampler(model, processor, sampling).run([job])
    assert cut.finish_reason == "stop" and len(out) < 9
    assert [*cut.token_ids, whole.token_ids[4]] == out


def test_no_end_token_is_no_mistake(loaded, monkeypatch):
    monkeypatch.setattr(loaded[0].generation_config, "eos_token_id", None)
    assert Sampler(*loaded, SamplingConfig()).end_ids == [loaded[1].end_token_id]


def test_generation_config_of_the_checkpoint_decides_nothing_else(loaded):
    model, processor = loaded
    job = Job("a", [Picture.of(picture(2))], [Request("dd", "Describe it.", 3)])
    config = SamplingConfig(temperature=1.0, max_new_tokens=10)
    before = Sampler(model, processor, config).run([job])
    old = model.generation_config
    try:
        model.generation_config = type(old)(top_k=1, repetition_penalty=9.0, temperature=0.01, do_sample=True)
        assert Sampler(model, processor, config).run([job]) == before
    finally:
        model.generation_config = old


def test_a_prompt_without_room_for_an_answer_is_refused(loaded):
    sampler = Sampler(*loaded, SamplingConfig())
    with pytest.raises(LongPromptError, match="long-one"):
        sampler.prompts(Job("long-one", [], [Request("dd", "circle " * 3000)]))


def test_an_answer_ends_where_the_positions_end(loaded):
    sampler = Sampler(*loaded, SamplingConfig(temperature=1.0, max_new_tokens=100))
    sampler.end_ids = [10**6]
    padded = Job("a", [], [Request("dd", "?" * (sampler.max_positions - 60))])
    n = len(sampler.prompts(padded)[0])
    assert sampler.max_positions - 60 < n < sampler.max_positions
    ((sample,),) = sampler.run([padded])
    assert sample.finish_reason == "length" and sample.n_tokens == sampler.max_positions - n + 1


def test_an_unreadable_picture_fails_its_own_jobs_only(loaded):
    def fail():
        raise ValueError("torn.png: the image is damaged")

    torn = Picture((200, 100), fail)
    config = SamplingConfig(temperature=1.0, max_new_tokens=6)
    jobs = _jobs(4)
    corrupted = [
        jobs[0],
        Job("torn", [torn], jobs[1].requests),
        jobs[2],
        Job("torn-2", [torn], jobs[1].requests),
        jobs[3],
    ]
    results = Sampler(*loaded, config).run(corrupted)
    whole = Sampler(*loaded, config).run(jobs)
    assert isinstance(results[1], ValueError) and isinstance(results[3], ValueError)
    assert [results[0], results[2], results[4]] == [whole[0], whole[2], whole[3]]


def test_six_candidates_run_far_fewer_calls_and_positions_than_the_plain_loop(loaded):
    model, processor = loaded
    images = [picture(i) for i in (1, 2, 4)]
    calls = []
    hook = model.language_model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    sampler = Sampler(model, processor, SamplingConfig(temperature=0, max_new_tokens=16))
    jobs = [Job(str(i), [Picture.of(im)], [Request("cod", "Describe.", 6)]) for i, im in enumerate(images)]
    results = sampler.run(jobs)
    ours, calls[:] = list(calls), []
    with torch.inference_mode():
        plain = [
            [_generate(model, processor, "Describe.", [im], 16, sampler.end_ids) for _ in range(6)] for im in images
        ]
    hook.remove()
    assert [[list(ids) for ids in row] for row in _tokens(results)] == plain
    assert len(ours) < len(calls) / 10 and sum(ours) < sum(calls) / 2


def test_only_sdpa_is_supported(loaded, monkeypatch):
    model, processor = loaded
    monkeypatch.setattr(model.config.text_config, "_attn_implementation", "eager")
    with pytest.raises(ValueError, match="sdpa"):
        Sampler(model, processor, SamplingConfig())

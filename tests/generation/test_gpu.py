"""On a CUDA device, in float32: greedy answers are the same alone, in a left-padded batch, and in the sampler."""

import pytest
import torch
from generation.worlds import picture

from sicog.generation.recorded import RecordedStep
from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig, user_turns
from sicog.model.checkpoints import load_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
NEW = 12
# (prompt, numbers of its pictures): unsliced, sliced wide and tall, several, none; short and long.
ROWS = [
    ("Describe the image step-by-step.", (0,)),
    ("How many objects are there?", ()),
    ("Compare. " + "There is a small blue square. " * 4, (1, 2)),
    ("", (4,)),
    ("One, two, three", (3, 0, 6)),
]


@pytest.fixture(scope="module", autouse=True)
def no_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def loaded(tiny_dir):
    model, processor = load_checkpoint(tiny_dir)
    assert model.dtype == torch.float32
    return model.to(DEVICE).eval(), processor


def generate(loaded, rows, ends):
    """`model.generate` on these rows as one batch; each answer up to its end token."""
    model, processor = loaded
    encoded = [
        processor.encode(user_turns(prompt, len(numbers)), [picture(n) for n in numbers], add_generation_prompt=True)
        for prompt, numbers in rows
    ]
    batch = processor.collate(encoded, padding_side="left", with_labels=False)
    batch = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
    values = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": ends, "pad_token_id": processor.pad_token_id}
    out = model.generate(**batch, **values)[:, batch["input_ids"].shape[1] :].tolist()
    return [answer[: next((i for i, t in enumerate(answer) if t in ends), len(answer))] for answer in out]


@pytest.fixture(scope="module")
def alone(loaded):
    """The answers one at a time, and end tokens that stop some of them early."""
    free = [generate(loaded, [row], [-1])[0] for row in ROWS]
    ends = sorted({free[0][2], free[2][5]})
    answers = [generate(loaded, [row], ends)[0] for row in ROWS]
    assert len({tuple(a) for a in answers}) > 2
    return answers, ends


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (1, 2), (3, 3, 1)])
def test_a_batch_equals_one_at_a_time(loaded, alone, order):
    answers, ends = alone
    assert generate(loaded, [ROWS[i] for i in order], ends) == [answers[i] for i in order]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_sampler_at_temperature_0_equals_generate(loaded, alone, batch_size):
    answers, ends = alone
    jobs = [
        Job(str(i), [Picture.of(picture(n)) for n in numbers], [Request("cot", prompt, 2), Request("cod", prompt)])
        for i, (prompt, numbers) in enumerate(ROWS)
    ]
    sampler = Sampler(*loaded, SamplingConfig(temperature=0, max_new_tokens=NEW, batch_size=batch_size))
    sampler.end_ids = ends
    for samples, answer in zip(sampler.run(jobs), answers, strict=True):
        assert [list(s.token_ids) for s in samples] == [answer] * 3


@pytest.fixture(scope="module")
def half(tiny_dir):
    model, processor = load_checkpoint(tiny_dir, dtype=torch.bfloat16)
    return model.to(DEVICE).eval(), processor


def sampled(loaded, batch_size, *, encode_ahead=None, **values):
    """The tokens of four candidates about each of 20 rows, many of which end early."""
    config = {"temperature": 1.0, "top_k": 20, "max_new_tokens": 30, "seed": 2, **values, "batch_size": batch_size}
    sampler = Sampler(*loaded, SamplingConfig(**config), encode_ahead=encode_ahead)
    sampler.end_ids = list(range(12))
    jobs = [
        Job(str(i), [Picture.of(picture(n)) for n in numbers], [Request("cot", prompt, 3), Request("cod", prompt)])
        for i, (prompt, numbers) in enumerate(ROWS * 4)
    ]
    return [[sample.token_ids for sample in samples] for samples in sampler.run(jobs)]


def share_of_equal_first_tokens(one, other):
    """Products of other sizes round otherwise in half precision."""
    pairs = [(a[:1], b[:1]) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("values", [{}, {"top_k": 0, "top_p": 0.9}, {"repetition_penalty": 1.1}, {"temperature": 0.0}])
def test_half_precision_repeats_itself_and_a_graph_changes_nothing(half, monkeypatch, values):
    first = sampled(half, 8, **values)
    assert sampled(half, 8, **values) == first
    monkeypatch.setattr(RecordedStep, "_record", lambda self, run, choose: None)  # every step as it is
    assert sampled(half, 8, **values) == first


def test_a_step_is_recorded_once_and_no_sequence_meets_another(half, monkeypatch):
    recordings, record = [], RecordedStep._record

    def noted(self, run, choose):
        recordings.append(record(self, run, choose))
        return recordings[-1]

    monkeypatch.setattr(RecordedStep, "_record", noted)
    few = sampled(half, 5)
    assert len(recordings) == 1 and recordings[0] is not None
    assert share_of_equal_first_tokens(few, sampled(half, 64)) > 0.9


def test_float32_and_other_slots_give_the_same_samples(loaded):
    assert sampled(loaded, 3) == sampled(loaded, 64)


def test_encoding_ahead_changes_nothing(half):
    assert Sampler(*half, SamplingConfig()).encode_ahead
    assert share_of_equal_first_tokens(sampled(half, 8), sampled(half, 8, encode_ahead=False)) > 0.9

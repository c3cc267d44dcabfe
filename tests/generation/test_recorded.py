"""recorded.py and what a GPU does differently: the same tokens, with ends read late and steps replayed."""

import gc
import weakref

import pytest
import torch
from generation.worlds import picture

from sicog.generation import recorded
from sicog.generation.decoding import Decoding
from sicog.generation.recorded import Ends, RecordedStep
from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig
from sicog.model.checkpoints import load_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loaded(tiny_dir):
    return load_checkpoint(tiny_dir)


def test_ends_are_those_of_the_step_before():
    ends = Ends(2, CPU)
    first, second, third = (torch.tensor(x) for x in ([True, True], [True, False], [False, False]))
    assert ends.one_step_late(first) is None
    assert ends.one_step_late(second) == [True, True]
    assert ends.one_step_late(third) == [True, False]
    ends.forget()
    assert ends.one_step_late(first) is None and ends.one_step_late(second) == [True, True]


class Recording:
    """A CUDA graph's stand-in: `replay` calls what ran while it was recorded, with the shapes it had then."""

    def __init__(self):
        self.calls, self.replays = [], 0

    def replay(self):
        self.replays += 1
        for call in self.calls:
            call()


@pytest.mark.parametrize(("values", "chooses"), [({"top_k": 5}, True), ({"top_p": 0.9}, False), ({"top_p": 1.0}, True)])
def test_a_gpus_way_gives_the_same_tokens(loaded, monkeypatch, values, chooses):
    """Slots as wide as they get from the start, one recorded step, ends one step late."""
    config = SamplingConfig(temperature=1.2, max_new_tokens=30, batch_size=6, **values)
    jobs = [Job(f"{i}", [Picture.of(picture(i % 3))], [Request("cod", "Describe." * (i % 4), 2)]) for i in range(9)]
    sampler = Sampler(*loaded, config)
    sampler.end_ids = list(range(20))
    expected = sampler.run(jobs)
    assert len({s.n_tokens for job in expected for s in job}) > 5
    recordings, begin = [], Decoding.__init__

    def record(self, run, choose):
        recording = Recording()
        recording.calls = [run, choose] if self._chooses else [run]
        recordings.append((recording, self._chooses))
        return recording

    def as_on_a_gpu(self, model, sampling, end_ids, *, n_slots, columns):
        begin(self, model, sampling, end_ids, n_slots=n_slots, columns=columns + config.max_new_tokens)
        self.recorded, self._ends = RecordedStep(sampling), Ends(n_slots, CPU)

    monkeypatch.setattr(RecordedStep, "_record", record)
    monkeypatch.setattr(Decoding, "__init__", as_on_a_gpu)
    monkeypatch.setattr(Decoding, "shrink", lambda self: None)
    assert sampler.run(jobs) == expected
    ((recording, with_choice),) = recordings
    assert with_choice is chooses and recording.replays > 20


def test_a_finished_run_frees_its_cache_at_once(loaded, monkeypatch):
    """Without Python's collector of circles: the next run asks how much memory is free."""
    begin, caches = Decoding.__init__, []

    def as_on_a_gpu(self, model, sampling, end_ids, **sizes):
        begin(self, model, sampling, end_ids, **sizes)
        self.recorded = RecordedStep(sampling)
        caches.append(weakref.ref(self.cache))

    monkeypatch.setattr(RecordedStep, "_record", lambda self, run, choose: None)
    monkeypatch.setattr(Decoding, "__init__", as_on_a_gpu)
    gc.disable()
    try:
        sampler = Sampler(*loaded, SamplingConfig(temperature=1.0, top_k=5, max_new_tokens=20))
        sampler.run([Job("a", [], [Request("cod", "Describe.", 3)])])
        assert [cache() for cache in caches] == [None]
    finally:
        gc.enable()


def test_a_step_that_cannot_be_recorded_runs_as_it_is(monkeypatch, capsys):
    class Refused:
        def __init__(self, *_, **__): ...
        def __enter__(self): ...
        def __exit__(self, *_):
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded.torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(recorded.torch.cuda, "graph", Refused)
    calls = []
    step = RecordedStep(SamplingConfig(top_p=1.0))
    for _ in range(6):
        step.step(lambda: calls.append("run"), lambda: calls.append("choose"))
    # Both eager steps, one refused recording that a GPU would not have run, and four more.
    assert calls.count("run") == calls.count("choose") == 7
    assert capsys.readouterr().err.count("cannot be recorded as a CUDA graph") == 1


def test_too_little_memory_for_a_recording_is_not_taken_for_a_refusal(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(recorded.torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(recorded.torch.cuda, "graph", full)
    with pytest.raises(torch.OutOfMemoryError):
        RecordedStep(SamplingConfig())._record(lambda: None, lambda: None)

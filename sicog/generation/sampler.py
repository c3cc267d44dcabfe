"""Sample many answers about many images: encode each image once, run each prompt once, fork it into its candidates.

All sequences decode together. Slots of finished ones are refilled from a queue of jobs sorted by length.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sicog.console import say
from sicog.generation.decoding import Decoding, Finished, Prefilled, run_tokens
from sicog.generation.prepare_ahead import Prepared, Preparer
from sicog.generation.room import fitting_rows
from sicog.generation.sampling import (
    Job,
    LongPromptError,
    Picture,
    Request,
    Sample,
    SamplingConfig,
    uniforms,
    user_turns,
)
from sicog.model.image_processing import PreparedImage
from sicog.model.kernels.slot_attention import SLOTS, attend_to_slots

_PREFILL_TOKENS = 16384  # prompt tokens run at once; limits the memory of activations
_ROOM = 256  # columns for new tokens that slots on a CPU begin with
_REFILLS = 32  # new rows come in when this part of the slots is free


@dataclass(frozen=True)
class _Ask:
    """One prompt of one job: the job's index in the input, the prompt's token ids, the indices of its samples."""

    place: int
    job_id: str
    request: Request
    token_ids: Sequence[int]
    indices: range


@dataclass(frozen=True, eq=False)
class _Batchable:
    """Prompts about the same images. They enter the slots together."""

    images: Sequence[Picture]
    asks: Sequence[_Ask]

    @property
    def n_samples(self) -> int:
        return sum(len(ask.indices) for ask in self.asks)

    @property
    def n_tokens(self) -> int:
        return sum(len(ask.token_ids) for ask in self.asks)

    @property
    def longest(self) -> int:
        return max(len(ask.token_ids) for ask in self.asks)


@dataclass(frozen=True)
class _Fork:
    """A sample that waits for a slot: its prefilled prompt and its key."""

    prompts: Prefilled
    parent: int
    ask: _Ask
    index: int


class Sampler:
    """Generate the samples of jobs. A sample depends on (seed, job id, style, index), never on other sequences.

    The model must be on its device and in eval mode. slicing: whether to cut images into slices, as in the last
    training stages. encode_ahead: whether to encode the next images during decoding, item by item. None: only on a GPU,
    because a CPU is busy with decoding.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        sampling: SamplingConfig,
        *,
        slicing: bool = True,
        encode_ahead: bool | None = None,
    ) -> None:
        attention = model.config.text_config._attn_implementation
        if attention not in ("sdpa", SLOTS):
            raise ValueError(f"sampling needs the language model's attention to be 'sdpa', got {attention!r}")
        attend_to_slots(model)
        self.model, self.processor = model, processor
        self.sampling, self.slicing = sampling, slicing
        self.encode_ahead = model.device.type == "cuda" if encode_ahead is None else encode_ahead
        # The end tokens of `generate`. A language model may have more than its tokenizer names, such as Qwen2's two.
        own = model.generation_config.eos_token_id
        own = own if isinstance(own, list) else [own]
        self.end_ids = sorted({processor.end_token_id, processor.tokenizer.eos_token_id, *own} - {None})
        self.max_positions = int(model.config.text_config.max_position_embeddings)
        self.slots = sampling.batch_size  # fewer, once more have not fitted
        self.steps = self.steps_used = 0  # steps of all slots, and of live slots; their ratio is the share in use
        self._waiting: list[_Fork] = []
        self.finished, self._began = 0, time.monotonic()

    def status(self) -> str:
        """The number of finished candidates, and the tokens per second."""
        seconds = max(1e-9, time.monotonic() - self._began)
        return f"{self.finished:,} candidates, {self.steps_used / seconds:,.1f} tokens/s"

    def close(self) -> None:
        """Do nothing: there are no open resources."""

    def check(self, job: Job) -> None:
        """Raise the errors of `prompts`."""
        self.prompts(job)

    def prompts(self, job: Job) -> list[list[int]]:
        """The token ids of each request. Raises `LongPromptError`, or `ValueError` for a too elongated image."""
        sizes = [image.size for image in job.images]
        rows = []
        for request in job.requests:
            turns = user_turns(request.full_prompt, len(job.images))
            ids, _ = self.processor.encode_text(turns, sizes, slicing=self.slicing, add_generation_prompt=True)
            if len(ids) >= self.max_positions:
                raise LongPromptError(
                    f"{job.id}: the prompt of style {request.style!r} has {len(ids)} tokens, and the model holds "
                    f"{self.max_positions} with the answer"
                )
            rows.append(ids)
        return rows

    def run(self, jobs: Sequence[Job]) -> list[list[Sample] | ValueError]:
        """The samples of every job, ordered by request and index, or the error of its images.

        If the device runs out of memory, all jobs are sampled again in half as many slots, also in later calls. Raises
        `ValueError` if one slot is too many.
        """
        while True:
            try:
                return self._run(jobs)
            except torch.OutOfMemoryError as error:
                if self.slots == 1:
                    raise ValueError(f"out of memory with a single sequence: {error}") from error
            # Behind the handler, where the traceback no longer holds the failed attempt's tensors.
            self.slots, self._waiting = self.slots // 2, []
            torch.cuda.empty_cache()
            say(f"sample: out of memory; trying again with {self.slots} sequences at once (batch_size)", style="yellow")

    @torch.no_grad()
    def _run(self, jobs: Sequence[Job]) -> list[list[Sample] | ValueError]:
        queue = self._fitting_queue(jobs)
        results = _Results(self.processor, jobs)
        decoding = self._new_decoding(queue)
        self._waiting = []
        with Preparer(self) as preparer:
            while queue or self._waiting or decoding.live:
                self._refill(decoding, queue, preparer, results)
                if decoding.live:
                    self.steps += self.slots
                    self.steps_used += decoding.live
                    decoding.step()
        self._collect(decoding, results)
        return results.in_order()

    def _fitting_queue(self, jobs: Sequence[Job]) -> deque[_Batchable]:
        """The items of all jobs, and no more slots than fit the device with the longest of them."""
        while True:
            # Longest first: neighbours in the queue need the same width, and short ones fill the end evenly.
            queue = deque(sorted(self._build_queue(jobs), key=lambda item: -item.longest))
            rows = fitting_rows(self.model, queue[0].longest + self.sampling.max_new_tokens) if queue else None
            if rows is None or rows >= self.slots:
                return queue
            say(f"sample: {rows} sequences at once, which fit the device, instead of {self.slots} (batch_size)")
            self.slots = rows

    def _new_decoding(self, queue: Sequence[_Batchable]) -> Decoding:
        """As many slots as there are samples, at most `slots`, each for the longest prompt and its answer."""
        n_slots = min(self.slots, sum(item.n_samples for item in queue))
        longest = max((item.longest for item in queue), default=0)
        room = self.sampling.max_new_tokens
        if self.model.device.type != "cuda":  # there slots can grow, which few long answers should not cost all
            room = min(room, _ROOM)
        columns = longest + room
        return Decoding(self.model, self.sampling, self.end_ids, n_slots=n_slots, columns=columns)

    def _build_queue(self, jobs: Sequence[Job]) -> Iterator[_Batchable]:
        """Group jobs about the same images, in portions that fit the slots."""
        groups: dict[tuple[int, ...], tuple[Sequence[Picture], list[_Ask]]] = {}
        for place, job in enumerate(jobs):
            # Jobs without images share only the system turn, so they are not grouped.
            key = tuple(map(id, job.images)) or (-1 - place,)
            _, asks = groups.setdefault(key, (job.images, []))
            for request, ids in zip(job.requests, self.prompts(job), strict=True):
                asks.append(_Ask(place, job.id, request, ids, range(request.n)))
        for images, asks in groups.values():
            for portion in _portions(asks, self.slots):
                yield _Batchable(images, portion)

    def _refill(self, decoding: Decoding, queue: deque[_Batchable], preparer: Preparer, results: _Results) -> None:
        """Take finished rows out, and new ones into their slots.

        Not one by one: on a GPU a prompt takes as long as several. If the queue is empty and a quarter of the rows has
        finished, the remaining rows are copied together.
        """
        n_slots, more = len(decoding.keys), bool(queue or self._waiting)
        if n_slots - decoding.live < max(1, n_slots // (_REFILLS if more else 4)):
            return
        self._collect(decoding, results)
        while (free := n_slots - len(decoding)) > 0 and (queue or self._waiting):
            if self._waiting:
                self._fork(decoding, free)
            else:
                self._admit(decoding, list(self._next(queue, free)), preparer, results, free)
                preparer.begin(queue)
            self._collect(decoding, results)
        if not more:
            decoding.shrink()

    def _collect(self, decoding: Decoding, results: _Results) -> None:
        done = decoding.take_finished()
        self.finished += len(done)
        results.add(done)

    def _next(self, queue: deque[_Batchable], free: int) -> Iterator[_Batchable]:
        """Items for this many slots. Some samples of the last item may have to wait."""
        n_tokens = 0
        while queue and free > 0:
            n_tokens += queue[0].n_tokens
            if n_tokens > max(_PREFILL_TOKENS, queue[0].n_tokens):
                return
            free -= queue[0].n_samples
            yield queue.popleft()

    def _admit(
        self, decoding: Decoding, batch: Sequence[_Batchable], preparer: Preparer, results: _Results, free: int
    ) -> None:
        """Run the prompts of these items and fork them into the free slots."""
        readable, prepared = [], []
        for item in batch:
            try:
                prepared.append(preparer.take(item))
                readable.append(item)
            except ValueError as error:
                results.fail(item, error)
        if not readable:
            return
        prompts = self._prefill(readable, self._features(prepared))
        asks = [ask for item in readable for ask in item.asks]
        self._waiting = [_Fork(prompts, parent, ask, index) for parent, ask in enumerate(asks) for index in ask.indices]
        self._fork(decoding, free)

    def _fork(self, decoding: Decoding, free: int) -> None:
        """Fork as many waiting samples as there are slots. The others keep only their prompts."""
        now, later = self._waiting[:free], self._waiting[free:]
        noise = [self._noise(fork.ask.job_id, fork.ask.request.style, fork.index) for fork in now]
        prompts, parents = now[0].prompts, [fork.parent for fork in now]
        keys = [(fork.ask, fork.index) for fork in now]
        self._waiting = _separate_prompts(later)
        decoding.join(prompts, parents, keys, torch.from_numpy(np.stack(noise)))

    def _noise(self, job_id: str, style: str, index: int) -> np.ndarray:
        if self.sampling.temperature == 0:
            return np.zeros(0, dtype=np.float32)
        return uniforms(self.sampling.seed, job_id, style, index, self.sampling.max_new_tokens)

    def _prefill(self, batch: Sequence[_Batchable], features_NE: torch.Tensor | None) -> Prefilled:
        """Run all prompts of these items. Their common prefix, mainly the images, runs once."""
        pad_id = self.processor.pad_token_id
        rows = [list(ask.token_ids) for item in batch for ask in item.asks]
        if all(len(item.asks) == 1 for item in batch):
            return run_tokens(self.model, rows, pad_id=pad_id, features_NE=features_NE)
        shared = [_common_prefix([ask.token_ids for ask in item.asks]) for item in batch]
        heads = [item.asks[0].token_ids[:n] for item, n in zip(batch, shared, strict=True)]
        prefix = run_tokens(self.model, heads, pad_id=pad_id, features_NE=features_NE)
        owners = [i for i, item in enumerate(batch) for _ in item.asks]
        tails = [row[shared[i] :] for row, i in zip(rows, owners, strict=True)]
        forked = prefix.cache.with_rows(owners, max(shared) + max(map(len, tails)))
        past = Prefilled(forked, tuple(shared[i] for i in owners), prefix.logits)
        return run_tokens(self.model, tails, pad_id=pad_id, past=past)

    def _features(self, prepared: Sequence[Prepared]) -> torch.Tensor | None:
        """[N, E] of all images of these items: encoded ahead one by one, or now all at once."""
        if not self.encode_ahead:
            return self.encode([image for item in prepared for image in item.images])
        ready = [item.features() for item in prepared if item.images]
        return torch.cat(ready) if ready else None

    def encode(self, images: Sequence[PreparedImage]) -> torch.Tensor | None:
        """[N, E] visual features of these images, in order; None without images."""
        if not images:
            return None
        return self.model.encode_images(
            torch.from_numpy(np.concatenate([image.pixels for image in images])).to(self.model.device),
            torch.tensor([size for image in images for size in image.view_sizes]),
            torch.tensor([image.grid for image in images]),
        )


class _Results:
    """Collect finished rows and return them in the order of the requests."""

    def __init__(self, processor: Any, jobs: Sequence[Job]) -> None:
        self._processor, self._jobs = processor, jobs
        self._samples: list[dict[tuple[str, str, int], Sample]] = [{} for _ in jobs]
        self._errors: dict[int, ValueError] = {}

    def add(self, finished: Sequence[Finished]) -> None:
        for row in finished:
            ask, index = row.key
            style, prompt = ask.request.style, ask.request.prompt
            text = self._processor.decode(row.token_ids)
            sample = Sample(style, prompt, index, text, "stop" if row.stopped else "length", row.token_ids)
            self._samples[ask.place][style, prompt, index] = sample

    def fail(self, item: _Batchable, error: ValueError) -> None:
        self._errors.update({ask.place: error for ask in item.asks})

    def in_order(self) -> list[list[Sample] | ValueError]:
        return [self._errors[i] if i in self._errors else self._samples_of(i) for i in range(len(self._jobs))]

    def _samples_of(self, place: int) -> list[Sample]:
        return [
            self._samples[place][request.style, request.prompt, index]
            for request in self._jobs[place].requests
            for index in range(request.n)
        ]


def _portions(asks: Sequence[_Ask], slots: int) -> Iterator[list[_Ask]]:
    """The prompts in portions of at most `slots` samples. A prompt with more samples is split."""
    portion: list[_Ask] = []
    free = slots
    for ask in asks:
        indices = ask.indices
        while indices:
            if not free:
                yield portion
                portion, free = [], slots
            portion.append(replace(ask, indices=indices[:free]))
            free, indices = free - len(portion[-1].indices), indices[len(portion[-1].indices) :]
    if portion:
        yield portion


def _separate_prompts(forks: Sequence[_Fork]) -> list[_Fork]:
    """The same samples with a cache of only their own prompts, so that the rest can be freed."""
    if not forks:
        return []
    prompts, parents = forks[0].prompts, sorted({fork.parent for fork in forks})
    if len(parents) == len(prompts.lengths):
        return list(forks)
    lengths = tuple(prompts.lengths[parent] for parent in parents)
    own = Prefilled(prompts.cache.with_rows(parents, max(lengths)), lengths, prompts.logits[parents])
    return [replace(fork, prompts=own, parent=parents.index(fork.parent)) for fork in forks]


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """The number of leading tokens that all prompts share. At least one token of each prompt remains."""
    shortest = min(map(len, prompts)) - 1
    return next((i for i in range(shortest) if len({ids[i] for ids in prompts}) > 1), shortest)

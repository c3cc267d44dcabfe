"""Beam search with Transformers' `generate`, one candidate after another. It is slow, and only for `beams` above 1.

Shapes: B beams, S positions, V vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Request, Sample, SamplingConfig, user_turns
from sicog.records import FinishReason
from sicog.seeds import stream_key

log = logging.getLogger(__name__)


class BeamSearch:
    """An engine that runs a beam search for each candidate. Above temperature 0 beams are sampled, seeded by id."""

    def __init__(
        self, model: Any, processor: Any, sampling: SamplingConfig, *, beams: int, slicing: bool = True
    ) -> None:
        log.warning(
            "beams=%d: every candidate is a plain `generate` of its own, which encodes the image and runs the prompt "
            "each time; batch_size has no effect. beams=1 is many times faster",
            beams,
        )
        self.model, self.processor, self.sampling, self.slicing = model, processor, sampling, slicing
        self._sampler = Sampler(model, processor, sampling, slicing=slicing)
        self.finished, self._began = 0, time.monotonic()
        # Every value is set; a missing one would come from the checkpoint's generation_config.json.
        self.config = GenerationConfig(
            num_beams=beams,
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or None,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=1.0,
            length_penalty=1.0,
            early_stopping=False,
            no_repeat_ngram_size=0,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self._sampler.end_ids,
            pad_token_id=processor.pad_token_id,
        )

    def status(self) -> str:
        """The number of finished candidates, and the number per minute."""
        minutes = max(1e-9, time.monotonic() - self._began) / 60
        return f"{self.finished:,} candidates, {self.finished / minutes:,.1f} a minute"

    def close(self) -> None:
        """Do nothing: there are no open resources."""

    def check(self, job: Job) -> None:
        """Raise `LongPromptError`, or `ValueError` for a too elongated image."""
        self._sampler.check(job)

    def run(self, jobs: Sequence[Job]) -> list[list[Sample] | ValueError]:
        """The samples of every job, or the error of its images."""
        return [self._answers(job) for job in jobs]

    def _answers(self, job: Job) -> list[Sample] | ValueError:
        try:
            images = [picture.read() for picture in job.images]
        except ValueError as error:
            return error
        return [self._answer(job, images, request, index) for request in job.requests for index in range(request.n)]

    @torch.no_grad()
    def _answer(self, job: Job, images: Sequence[Image.Image], request: Request, index: int) -> Sample:
        encoded = self.processor.encode(
            user_turns(request.full_prompt, len(images)), list(images), slicing=self.slicing, add_generation_prompt=True
        )
        batch = self.processor.collate([encoded], padding_side="left", with_labels=False)
        n_prompt = batch["input_ids"].shape[1]
        # The last token is never run, so a sequence may hold one more than there are positions.
        room = self._sampler.max_positions + 1 - n_prompt
        config = GenerationConfig(
            **{**self.config.to_dict(), "max_new_tokens": min(self.sampling.max_new_tokens, room)}
        )
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(stream_key("beams", self.sampling.seed, job.id, request.style, index) % 2**63)
            out = self.model.generate(
                **{name: x.to(self.model.device) for name, x in batch.items()},
                generation_config=config,
                logits_processor=LogitsProcessorList([_NewTokenPenalty(n_prompt, self.sampling.repetition_penalty)]),
            )
        ids = out[0, n_prompt:].tolist()
        ends = set(self._sampler.end_ids)
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        kept = tuple(ids if end is None else ids[:end])
        self.finished += 1
        reason: FinishReason = "length" if end is None else "stop"
        return Sample(request.style, request.prompt, index, self.processor.decode(kept), reason, kept)


class _NewTokenPenalty(LogitsProcessor):
    """The repetition penalty on generated tokens only, because the prompt is mostly image placeholders."""

    def __init__(self, n_prompt: int, penalty: float) -> None:
        self.n_prompt, self.penalty = n_prompt, penalty

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        new_BS = input_ids[:, self.n_prompt :]
        if self.penalty == 1 or not new_BS.shape[1]:
            return scores
        seen_BS = scores.gather(1, new_BS)
        return scores.scatter(1, new_BS, torch.where(seen_BS > 0, seen_BS / self.penalty, seen_BS * self.penalty))

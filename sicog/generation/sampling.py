"""Types of the sampler: sampling values, jobs and samples, and the random stream of each candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydantic import Field

from sicog.config import Config
from sicog.records import FinishReason, Turn
from sicog.seeds import stream_key


class SamplingConfig(Config):
    """All sampling values. None is read from a checkpoint's `generation_config.json`."""

    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """Sample only from the k most likely tokens; 0 is off."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Penalty on tokens that were already generated; 1 is off."""
    max_new_tokens: int = Field(default=1200, ge=1)
    """Maximum number of tokens of an answer."""
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=64, ge=1)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is read late, so that a long list of jobs needs little memory.

    size: (width, height) of the result of `read`. If `read` raises `ValueError`, only the jobs of this picture fail.
    An object that several jobs share is read and encoded once.
    """

    size: tuple[int, int]
    read: Callable[[], Image.Image]

    @classmethod
    def of(cls, image: Image.Image) -> Picture:
        """A picture that is already in memory."""
        return cls(image.size, lambda: image)


@dataclass(frozen=True)
class Request:
    """One prompt about a job's images, and its number of samples. context: a text that the model reads before it."""

    style: str
    prompt: str
    n: int = 1
    context: str = ""

    @property
    def full_prompt(self) -> str:
        """The text for the model: context and prompt."""
        return f"{self.context}\n{self.prompt}" if self.context else self.prompt


@dataclass(frozen=True)
class Job:
    """Images and all requests about them. `id` is a key of the noise, so equal jobs give equal answers for one seed."""

    id: str
    images: Sequence[Picture]
    requests: Sequence[Request]


class LongPromptError(ValueError):
    """The prompt is too long: no position remains for an answer."""


class Unanswered(Exception):  # noqa: N818 - an outcome of one row
    """A job without an answer this time; `reason` is the snake_case word for `Failed`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Sample:
    """One answer. `token_ids`: the generated ids without the end token. For a served model only `counted` is known."""

    style: str
    prompt: str
    index: int
    text: str
    finish_reason: FinishReason
    token_ids: tuple[int, ...]
    counted: int | None = None

    @property
    def n_tokens(self) -> int:
        """Number of generated tokens, the end token not counted."""
        return len(self.token_ids) if self.counted is None else self.counted


def user_turns(prompt: str, n_images: int) -> tuple[Turn, ...]:
    """The conversation of a request: one user turn, its images in front."""
    return (Turn(role="user", text=prompt, images_at=(0,) * n_images),)


def uniforms(seed: int, job: str, style: str, index: int, length: int) -> np.ndarray:
    """float32 [length]: the noise of a candidate in [0, 1), one number per position.

    Counter-based (Philox) and keyed by what the candidate is, so it depends neither on the batch nor on the order of
    work. Raw bits, because numpy promises their stability where it does not promise that of its distributions.
    """
    bits = np.random.Philox(key=stream_key(seed, job, style, index)).random_raw(length)
    return ((bits >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)

"""The `Engine` interface and its loader; back ends are our sampler, beam search and served models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sicog.generation.sampling import Job, Sample, SamplingConfig, Unanswered
from sicog.model.kernels.choice import chosen_attention, use_attention
from sicog.model.precision import Precision, chosen_device, resolve_precision

if TYPE_CHECKING:
    from sicog.generation.sampler import Sampler


class Engine(Protocol):
    """A model that answers jobs. The answers of a job must not depend on other jobs."""

    def check(self, job: Job) -> None:
        """Raise `LongPromptError`, or `ValueError` for an image of an unusable size. Nothing is read."""

    def run(self, jobs: Sequence[Job]) -> Sequence[list[Sample] | ValueError | Unanswered]:
        """The samples of every job, ordered by request and index; or the error of its images, or the reason why it has
        no answer this time."""

    def status(self) -> str:
        """The number of answers so far and the speed, for a progress bar. It is called from another thread."""

    def close(self) -> None:
        """Free all resources. The engine is not used again."""


def load_engine(
    checkpoint: Path,
    sampling: SamplingConfig,
    *,
    beams: int = 1,
    slicing: bool = True,
    device: str = "auto",
    precision: Precision = "auto",
) -> Engine:
    """Load a checkpoint on a GPU if there is one (or on `device`), as an engine."""
    if beams == 1:
        return load_sampler(checkpoint, sampling, slicing=slicing, device=device, precision=precision)
    from sicog.generation.engines.beams import BeamSearch

    model, processor = _load_model(checkpoint, device, precision)
    return BeamSearch(model, processor, sampling, beams=beams, slicing=slicing)


def load_sampler(
    checkpoint: Path,
    sampling: SamplingConfig,
    *,
    slicing: bool = True,
    device: str = "auto",
    precision: Precision = "auto",
) -> Sampler:
    """Load a checkpoint on a GPU if there is one (or on `device`), as a sampler."""
    from sicog.generation.sampler import Sampler

    model, processor = _load_model(checkpoint, device, precision)
    return Sampler(model, processor, sampling, slicing=slicing)


def _load_model(checkpoint: Path, device: str, precision: Precision) -> tuple[Any, Any]:
    from sicog.model.checkpoints import load_checkpoint

    model, processor = load_checkpoint(
        checkpoint, dtype=resolve_precision(precision, device), device=chosen_device(device)
    )
    # The language model reads forked caches through masks, which flash-attn does not support.
    use_attention(model, language_model="sdpa", vision_tower=chosen_attention("auto", precision, device))
    return model, processor

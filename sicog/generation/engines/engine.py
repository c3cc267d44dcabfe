"""What answers jobs, behind one small interface: our sampler, for beams plain `generate`, or a served model."""

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
    """A model that answers jobs. What a job's answers are must not depend on the other jobs."""

    def check(self, job: Job) -> None:
        """Raises `LongPromptError`, and `ValueError` for an image whose size cannot be used. Nothing is read."""

    def run(self, jobs: Sequence[Job]) -> Sequence[list[Sample] | ValueError | Unanswered]:
        """The samples of every job, in the order of its requests and indices; or the error of reading its images, or
        why it has no answer this time."""

    def status(self) -> str:
        """How much it has answered so far and how fast, for a progress bar; asked from another thread."""

    def close(self) -> None:
        """Let go of what is held; it is not asked again."""


def load_engine(
    checkpoint: Path,
    sampling: SamplingConfig,
    *,
    beams: int = 1,
    slicing: bool = True,
    device: str = "auto",
    precision: Precision = "auto",
) -> Engine:
    """A checkpoint, loaded on a GPU when there is one (or on `device`), ready to answer."""
    if beams == 1:
        return load_sampler(checkpoint, sampling, slicing=slicing, device=device, precision=precision)
    from sicog.generation.engines.beams import BeamSearch

    model, processor = _loaded(checkpoint, device, precision)
    return BeamSearch(model, processor, sampling, beams=beams, slicing=slicing)


def load_sampler(
    checkpoint: Path,
    sampling: SamplingConfig,
    *,
    slicing: bool = True,
    device: str = "auto",
    precision: Precision = "auto",
) -> Sampler:
    """A checkpoint, loaded on a GPU when there is one (or on `device`), ready to sample."""
    from sicog.generation.sampler import Sampler

    model, processor = _loaded(checkpoint, device, precision)
    return Sampler(model, processor, sampling, slicing=slicing)


def _loaded(checkpoint: Path, device: str, precision: Precision) -> tuple[Any, Any]:
    from sicog.model.checkpoints import load_checkpoint

    model, processor = load_checkpoint(
        checkpoint, dtype=resolve_precision(precision, device), device=chosen_device(device)
    )
    # The language model reads forked caches through masks, which flash-attn does not take.
    use_attention(model, language_model="sdpa", vision_tower=chosen_attention("auto", precision, device))
    return model, processor

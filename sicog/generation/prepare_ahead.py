"""Prepare images in a thread, and on a GPU encode them on a stream of their own, while the model decodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch

from sicog.generation.sampling import Picture
from sicog.model.image_processing import PreparedImage

_LOOKAHEAD = 32  # items


class Encodes(Protocol):
    """What prepares and encodes images. `Sampler` does."""

    model: Any
    processor: Any
    slicing: bool
    encode_ahead: bool

    def encode(self, images: Sequence[PreparedImage]) -> torch.Tensor | None: ...


class HasImages(Protocol):
    """An item of the queue."""

    @property
    def images(self) -> Sequence[Picture]: ...


@dataclass(frozen=True)
class Prepared:
    """The images of an item and, if encoded ahead, their features [N, E] and the event after encoding."""

    images: list[PreparedImage]
    encoded: torch.Tensor | None = None
    done: torch.cuda.Event | None = None

    def features(self) -> torch.Tensor:
        """The features, for use on the current stream."""
        assert self.encoded is not None
        if self.done is not None:
            self.done.wait()
            self.encoded.record_stream(torch.cuda.current_stream())
        return self.encoded


class Preparer:
    """Read, prepare and perhaps encode the images of the next items of a queue. Items are told apart by identity."""

    def __init__(self, encoder: Encodes) -> None:
        self._encoder = encoder
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._coming: dict[HasImages, Future[Prepared]] = {}
        on_gpu = encoder.encode_ahead and encoder.model.device.type == "cuda"
        self._stream = torch.cuda.Stream(encoder.model.device) if on_gpu else None

    def __enter__(self) -> Preparer:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, queue: Iterable[HasImages]) -> None:
        """Start the first items of the queue."""
        for item in islice(queue, _LOOKAHEAD):
            if item not in self._coming:
                self._coming[item] = self._pool.submit(self._work, item)

    def take(self, item: HasImages) -> Prepared:
        """The prepared images of an item. Raises `ValueError` if they could not be read."""
        coming = self._coming.pop(item, None)
        return coming.result() if coming else self._work(item)

    @torch.no_grad()  # inference mode is per thread
    def _work(self, item: HasImages) -> Prepared:
        encoder = self._encoder
        prepare = encoder.processor.image_processor.prepare
        images = [prepare(picture.read(), slicing=encoder.slicing) for picture in item.images]
        if not encoder.encode_ahead or not images:
            return Prepared(images)
        with torch.cuda.stream(self._stream):
            features_NE = encoder.encode(images)
            done = self._stream.record_event() if self._stream else None
        return Prepared(images, features_NE, done)

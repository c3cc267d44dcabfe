"""What lets a GPU decode without waiting for the host: steps replayed as a CUDA graph, and ends read one step late.

Shapes: B slots.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sicog.console import say
from sicog.generation.choose import has_fixed_shapes
from sicog.generation.sampling import SamplingConfig

_EAGER_STEPS = 2  # first calls of libraries choose kernels and allocate, which a recording must not


class RecordedStep:
    """A step of decoding: the first ones run as they are, then one is recorded and replayed.

    Its two halves, `run` and `choose`, are given with every call and must read and write the same tensors each time. If
    they were kept here, the cache of a finished run would live on. `choose` is part of the recording only if it never
    looks at values, which depends on the sampling.
    """

    def __init__(self, sampling: SamplingConfig) -> None:
        self._chooses = has_fixed_shapes(sampling)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._steps_before = _EAGER_STEPS

    def step(self, run: Callable[[], None], choose: Callable[[], None]) -> None:
        """Start a step. Does not wait for it."""
        if self._graph is None and self._steps_before == 0:
            self._graph = self._record(run, choose)
        self._steps_before -= 1
        if self._graph is None:
            run()
            choose()
            return
        self._graph.replay()
        if not self._chooses:
            choose()

    def _record(self, run: Callable[[], None], choose: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        """The recording; None, with a line that says so, for a language model that looks at values."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Of this thread alone: another one may be encoding images.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                run()
                if self._chooses:
                    choose()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            say(f"sample: steps cannot be recorded as a CUDA graph, so decoding is slower: {error}", style="yellow")
            return None
        return graph


class Ends:
    """Which rows are alive, read one step late: the copy of a step is awaited only after the next one has started."""

    def __init__(self, n_rows: int, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._copies = [torch.ones(n_rows, dtype=torch.bool, pin_memory=on_gpu) for _ in range(2)]
        self._events = [torch.cuda.Event() for _ in range(2)] if on_gpu else None
        self._now, self._has_last = 0, False

    def one_step_late(self, alive_B: torch.Tensor) -> list[bool] | None:
        """Copy the current values. Returns those of the call before, or None without one since `forget`."""
        last, self._now = self._now, 1 - self._now
        self._copies[self._now].copy_(alive_B, non_blocking=True)
        if self._events is not None:
            self._events[self._now].record()
        if not self._has_last:
            self._has_last = True
            return None
        if self._events is not None:
            self._events[last].synchronize()
        values: list[bool] = self._copies[last].tolist()
        return values

    def forget(self) -> None:
        """The rows have changed, so the last copy is of others."""
        self._has_last = False

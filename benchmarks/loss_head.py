"""The loss head, forward and backward, against the plain one: float32 logits of all positions at once.

A row of 1533 positions (7 views and 500 text tokens) with about 40 % of them supervised, and Qwen2's vocabulary. The
loss and both gradients are compared first. `logits` is the largest tensor with the width of the vocabulary. `peak` is
the memory of both passes without inputs and weight, but with the gradient of the weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import arguments, compare, report
from sicog.model.kernels.loss_head import causal_loss

# (width, positions, supervised share). At full width there are fewer positions, to save time.
CASES = [(896, 1533, 0.4), (3584, 384, 0.4)]
VOCABULARY = 151_646
_TOLERANCE = 1e-5  # tolerance, relative to the largest value of a gradient


class LargestLogits(TorchDispatchMode):
    """Bytes of the largest tensor [..., vocabulary] created in this context, without the transposed weight."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.largest = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple) else (out,):
            if isinstance(x, torch.Tensor) and x.ndim and x.shape[-1] == self.vocabulary and x.is_contiguous():
                self.largest = max(self.largest, x.numel() * x.element_size())
        return out


def plain_loss(head: nn.Linear, hidden_BTE: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """As Transformers computes it: logits of all positions to float32, then the mean over supervised ones."""
    logits_BTV = head(hidden_BTE).float()
    targets_BT = nn.functional.pad(labels_BT, (0, 1), value=-100)[:, 1:].contiguous()
    return nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def case(width: int, positions: int, share: float, vocabulary: int, device: str) -> tuple[nn.Linear, tuple[Any, Any]]:
    """(head, (hidden, labels)). The supervised positions are at the end, like an answer."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    head = nn.Linear(width, vocabulary, bias=False)
    nn.init.normal_(head.weight, std=0.02, generator=generator)
    hidden_BTE = torch.randn(1, positions, width, generator=generator).to(device, dtype).requires_grad_()
    labels_BT = torch.randint(vocabulary, (1, positions), generator=generator)
    labels_BT[:, : round(positions * (1 - share))] = -100
    return head.to(device, dtype), (hidden_BTE, labels_BT.to(device))


def gradients(loss_of: Any, head: nn.Linear, batch: tuple[Any, Any]) -> tuple[torch.Tensor, ...]:
    """(loss, gradient of hidden, gradient of the weight)."""
    loss = loss_of(head, *batch)
    return loss.detach(), *torch.autograd.grad(loss, (batch[0], head.weight))


def peak_bytes(loss_of: Any, head: nn.Linear, batch: tuple[Any, Any]) -> int:
    """The peak of bytes that one run allocates."""
    if batch[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        gradients(loss_of, head, batch)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        gradients(loss_of, head, batch)
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def measure(width: int, positions: int, share: float, vocabulary: int, repeats: int) -> dict[str, Any]:
    """One row of the table, after a check that the results are equal."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    head, batch = case(width, positions, share, vocabulary, device)
    ways = (plain_loss, causal_loss)
    results, logits = [], []
    for way in ways:
        with LargestLogits(vocabulary) as watch:
            results.append(gradients(way, head, batch))
        logits.append(watch.largest)
    tolerance = _TOLERANCE if device == "cpu" else 2e-2  # bfloat16
    for right, ours in zip(*results, strict=True):
        difference = float((ours - right).abs().max() / right.abs().max())
        assert difference < tolerance, f"results differ by {difference:.1e}"
    results.clear()  # free them, because they would raise the peaks
    peaks = [peak_bytes(way, head, batch) for way in ways]
    times = compare(*(lambda way=way: gradients(way, head, batch) for way in ways), repeats=repeats, warm_up=False)
    return {
        "width": width,
        "positions": positions,
        "supervised": int((batch[1] != -100).sum()),
        "vocabulary": vocabulary,
        "plain s": times.plain_s,
        "ours s": times.ours_s,
        "times faster": times.ratio,
        "plain logits MB": logits[0] / 1e6,
        "ours logits MB": logits[1] / 1e6,
        "times fewer": logits[0] / logits[1],
        "plain peak MB": peaks[0] / 1e6,
        "ours peak MB": peaks[1] / 1e6,
    }


def main() -> None:
    """Measure all cases."""
    options = arguments(__doc__.splitlines()[0])
    cases = [(16, 90, 0.4)] if options.smoke else CASES
    vocabulary = 500 if options.smoke else VOCABULARY
    rows = [measure(*sizes, vocabulary, min(options.repeats, 3)) for sizes in cases]
    report("loss head", rows, options.out)


if __name__ == "__main__":
    main()

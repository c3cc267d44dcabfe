"""The one training loop of the mini parts: warm-up and decay, clipping, a progress bar with counts and rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn
from tqdm import tqdm

Batch = TypeVar("Batch")
_SHOWN_EVERY = 50
_WARM_UP = 0.06


def device() -> torch.device:
    """Where to train and to measure: a GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW as both parts use it."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98), fused=True)


def fit(
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Iterable[Batch],
    loss_of: Callable[[Batch], torch.Tensor],
    *,
    steps: int,
    name: str,
) -> None:
    """Train on `steps` batches; each optimizer's learning rate is the highest it reaches."""
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.defaults["lr"], total_steps=steps, pct_start=_WARM_UP, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    bar = tqdm(total=steps, desc=name, unit="step", mininterval=2.0)
    for step, batch in enumerate(batches, 1):
        loss = loss_of(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        bar.update()
        if step % _SHOWN_EVERY == 0 or step == steps:
            bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    bar.close()

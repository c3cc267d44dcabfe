"""The one training loop of the mini parts: warm-up and decay, clipping, a progress bar with counts and rate.

A stopped training resumes from its last saved state. Batches before it are generated again without training.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from sicog.progress import Bar

Batch = TypeVar("Batch")
_SHOWN_EVERY = 50
_SAVED_EVERY = 120.0  # seconds
_WARM_UP = 0.06


def device() -> torch.device:
    """Return the device for training and measuring: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def optimizers(
    parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float, matrix_learning_rate: float | None
) -> list[torch.optim.Optimizer]:
    """Return AdamW, plus Muon for the layers' matrices if it has a learning rate."""
    trained = {name: p for name, p in parameters if p.requires_grad}
    matrices = [] if matrix_learning_rate is None else [p for n, p in trained.items() if p.ndim == 2 and "layers." in n]
    muon = {id(p) for p in matrices}
    others = [p for p in trained.values() if id(p) not in muon]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98), fused=True)
    ]
    if matrix_learning_rate is not None:
        found.append(
            torch.optim.Muon(matrices, lr=matrix_learning_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        )
    return found


def fit(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Iterable[Batch],
    loss_of: Callable[[Batch], torch.Tensor],
    *,
    steps: int,
    name: str,
    state: Path,
) -> None:
    """Train on `steps` batches; each optimizer's learning rate is its peak.

    Every two minutes the state for resuming is written to `state`, which is removed at the end.
    """
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.defaults["lr"], total_steps=steps, pct_start=_WARM_UP, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    supply = iter(batches)  # first, because a loader uses a random number when it starts
    done = _restore(state, model, optimizers, schedules)
    saved = time.monotonic()
    with Bar(name, steps, unit="step", done=done) as bar:
        for step, batch in enumerate(itertools.islice(supply, done, None), done + 1):
            loss = loss_of(batch)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            if step % _SHOWN_EVERY == 0 or step == steps:
                bar.update(step, note=f"loss {loss.item():.3f}")
            if time.monotonic() - saved > _SAVED_EVERY:
                _save(state, step, model, optimizers, schedules)
                saved = time.monotonic()
    state.unlink(missing_ok=True)


def _save(state: Path, step: int, model: nn.Module, optimizers: Sequence, schedules: Sequence) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    beside = state.with_suffix(".tmp")
    value = {
        "step": step,
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "schedules": [s.state_dict() for s in schedules],
        "rng": torch.get_rng_state(),
    }
    torch.save(value, beside)
    beside.replace(state)


def _restore(state: Path, model: nn.Module, optimizers: Sequence, schedules: Sequence) -> int:
    """Restore a saved state; returns the number of finished steps, 0 without a saved state."""
    if not state.is_file():
        return 0
    value = torch.load(state, weights_only=True, map_location=next(model.parameters()).device)
    model.load_state_dict(value["model"])
    for held, values in ((optimizers, value["optimizers"]), (schedules, value["schedules"])):
        for one, its in zip(held, values, strict=True):
            one.load_state_dict(its)
    torch.set_rng_state(value["rng"].cpu())
    return value["step"]

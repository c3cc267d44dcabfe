"""A micro-batch asks for no value of a tensor: on a GPU the host would wait for all that has been started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sicog.training.config import TrainConfig
from sicog.training.train import train
from sicog.training.trainer import SicogTrainer

MakeConfig = Callable[..., TrainConfig]
# Operators whose result, or its shape, the host needs.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


class Waits(TorchDispatchMode):
    """Counts the operators that would make the host wait; also indexing with a mask, which looks for its places."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = (
            [i for i in args[1] if i is not None and i.dtype == torch.bool] if name in ("index", "index_put_") else []
        )
        if name in WAITS or masks:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"trainable": ["projector"]}, {"gradient_checkpointing": "selective"}])
def test_micro_batches_ask_for_no_values(config: MakeConfig, monkeypatch: pytest.MonkeyPatch, changes: Any) -> None:
    found: list[Counter[str]] = []
    step, tolist = SicogTrainer.training_step, torch.Tensor.tolist

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(Counter())

        def noted(tensor: torch.Tensor) -> Any:
            found[-1]["tolist"] += 1
            return tolist(tensor)

        with pytest.MonkeyPatch.context() as patch, Waits(found[-1]):
            patch.setattr(torch.Tensor, "tolist", noted)
            return step(self, *args, **kwargs)

    monkeypatch.setattr(SicogTrainer, "training_step", counted)
    train(config(packing="epoch", pack_tokens=200, **changes))
    # Of the second epoch, where every shape has been seen: tables of new shapes are made from values on the host.
    later = found[len(found) // 2 :]
    assert len(later) > 6
    # One look at the losses of an update, in its last micro-batch.
    assert all(waits in (Counter(), Counter(tolist=1)) for waits in later), later
    assert sum(waits["tolist"] for waits in later) <= 4  # three updates, and the end of another


def test_a_micro_batch_that_is_not_finite_stops_its_update(config: MakeConfig, tmp_path: Path) -> None:
    """Whichever of the update it is: the first of two here."""
    losses = iter([float("nan"), 1.0, 1.0, 1.0])
    compute = SicogTrainer.compute_loss

    def spoilt(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        forward = model.forward
        model.forward = lambda *a, **k: _times(forward(*a, **k), next(losses))
        try:
            return compute(self, model, inputs, *args, **kwargs)
        finally:
            model.forward = forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SicogTrainer, "compute_loss", spoilt)
        with pytest.raises(ValueError, match="the loss is nan at update 1, of rows row-"):
            train(config(accumulation=2, device_batch=4, global_batch=8, max_steps=2))


def _times(output: Any, factor: float) -> Any:
    output.loss = output.loss * factor
    return output

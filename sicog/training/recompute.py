"""Gradient checkpointing: compute results of layers again in the backward pass instead of storing them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from sicog.model.kernels.choice import CheckpointingChoice

_ATTENTION = ("attention", "varlen_attn", "flash_attn")
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_mm")


def checkpoint_activations(model: Any, level: CheckpointingChoice) -> None:
    """Recompute the layers of vision tower and language model in the backward pass.

    `full` stores only the input of each layer: least memory, and a third more FLOPs. `selective` also stores the
    results of matrix products and attention, and recomputes the rest: norms, activations, rotations, casts and
    elementwise products. The rest is half of a layer's memory and nearly none of its FLOPs. No other choice (every
    second layer, the feed-forward layers) frees as much memory per FLOP. The gradients are bit-identical.
    Raises `ValueError` for `auto`, which `fitting.with_chosen_level` replaces once the rows are known.
    """
    if level == "auto":
        raise ValueError(
            "gradient_checkpointing=auto has not been chosen yet. Use `with_chosen_level`, or name a level"
        )
    if level == "none":
        return
    kwargs: dict[str, Any] = {"use_reentrant": False}
    if level == "selective":
        kwargs["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
    # The method's name since Transformers 5.23, and the older one.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(kwargs)
    # Enabling also makes all embeddings require gradients, which only the reentrant kind needs. In the align stage the
    # backward pass would then run through the frozen vision tower. The Trainer has no option, so it is done here.
    model.disable_input_require_grads()


def _keep_products(_context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = operator.name() if isinstance(operator, torch._ops.OpOverload) else str(operator)
    namespace, _, name = name.partition("::")
    is_product = namespace == "aten" and name.partition(".")[0] in _PRODUCTS
    # aten::_scaled_dot_product_flash_attention, torch_attn::_varlen_attn, flash_attn::_flash_attn_varlen_forward
    is_attention = any(kind in name for kind in _ATTENTION)
    return CheckpointPolicy.MUST_SAVE if is_product or is_attention else CheckpointPolicy.PREFER_RECOMPUTE

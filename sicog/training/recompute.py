"""Gradient checkpointing: what the layers computed is computed again in the backward pass instead of being kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from sicog.training.config import Checkpointing

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_mm")


def checkpoint_activations(model: Any, level: Checkpointing) -> None:
    """Let the layers of vision tower and language model be computed again in the backward pass.

    `full` keeps the input of each layer: least memory, and a third more FLOPs. `selective` also keeps what matrix
    products and attention gave, and computes only what lies between them again: norms, activations, rotations, casts
    and products of elements. These are half of what a layer keeps and next to none of its FLOPs: no other choice (every
    second layer, the feed-forward layers) frees as much memory for a FLOP. The gradients are the same to the bit.
    """
    if level == "none":
        return
    kwargs: dict[str, Any] = {"use_reentrant": False}
    if level == "selective":
        kwargs["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
    # The method's name since Transformers 5.23, and the one before.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(kwargs)
    # Enabling also makes all embeddings require gradients, which only the reentrant kind needs: the backward pass of
    # the align stage would run through the whole frozen vision tower. Its Trainer cannot be told, so it is done here.
    model.disable_input_require_grads()


def _keep_products(_context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = operator.name() if isinstance(operator, torch._ops.OpOverload) else str(operator)
    namespace, _, name = name.partition("::")
    is_product = namespace == "aten" and name.partition(".")[0] in _PRODUCTS
    # torch's own kernels, and the packages' (flash_attn::_flash_attn_varlen_forward).
    is_attention = "attention" in name or "flash_attn" in name
    return CheckpointPolicy.MUST_SAVE if is_product or is_attention else CheckpointPolicy.PREFER_RECOMPUTE

"""Attention of decoding: every sequence attends to what its own slot of the cache holds.

On a GPU in half precision this is one call of torch's variable-length attention per layer, which reads only the used
columns of each slot and shares keys among query heads. Elsewhere it is SDPA with a mask.
Shapes: B slots, S new positions, W columns looked at, H query heads, G key-value heads, A width of a head.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sicog.model.kernels.document_attention import VARLEN_OPTIONS, has_varlen

SLOTS = "slots"  # the attn_implementation: SDPA, except while slots decode
# A fixed order of summation, so that a row's result does not depend on the lengths of others.
_ONE_SPLIT: dict[str, Any] = {"num_splits": 1} if "num_splits" in VARLEN_OPTIONS else {}


class Slots(Protocol):
    """What attention needs to know of a cache of slots."""

    lengths: torch.Tensor  # int64 [B], columns in use before the new positions
    width: int

    @property
    def is_empty(self) -> bool: ...

    def visible(self, n_new: int) -> torch.Tensor: ...


def attend_to_slots(model: Any) -> None:
    """Make the language model use torch's kernel while slots decode, where there is one that serves them."""
    config = model.language_model.config
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    weight = model.get_input_embeddings().weight
    if config._attn_implementation == "sdpa" and not sliding and has_varlen(weight) and "seqused_k" in VARLEN_OPTIONS:
        config._attn_implementation = SLOTS


def slot_arguments(model: Any, cache: Slots, n_new: int) -> dict[str, Any]:
    """Arguments of the language model for S new positions of each slot, computed once for all layers."""
    if model.language_model.config._attn_implementation != SLOTS or (n_new > 1 and not cache.is_empty):
        return {"attention_mask": cache.visible(n_new)}
    n_slots, device = len(cache.lengths), cache.lengths.device
    # Transformers passes on a 4-D mask unchanged. Otherwise it would build one from the positions.
    arguments: dict[str, Any] = {"attention_mask": torch.zeros(1, 1, 1, 1, device=device)}
    if n_new > 1:
        return {**arguments, "slots_begin": True}
    order_B = torch.arange(n_slots + 1, dtype=torch.int32, device=device)
    lengths_B = (cache.lengths + n_new).to(torch.int32)
    return {**arguments, "slot_lengths": lengths_B, "slot_borders": (order_B, order_B * cache.width)}


def slot_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    slots_begin: bool = False,
    slot_lengths: torch.Tensor | None = None,
    slot_borders: tuple[torch.Tensor, torch.Tensor] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """[B, H, S, A], keys and values [B, G, W, A] -> [B, S, H, A]; with lengths S is 1. Else Transformers' SDPA."""
    if slot_lengths is None or slot_borders is None:
        # Prompts in empty slots: the kernel for causal attention, without a mask. Padding comes last.
        mask = None if slots_begin else attention_mask
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)[0], None
    # Views: on a GPU a slot's columns lie one after another.
    keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (key, value))
    begins_q, begins_k = slot_borders
    options = {"scale": scaling, "enable_gqa": True, "seqused_k": slot_lengths, **_ONE_SPLIT}
    out = varlen_attn(query[:, :, 0], keys, values, begins_q, begins_k, 1, key.shape[2], **options)
    assert isinstance(out, torch.Tensor)  # without the softmax normaliser
    return out[:, None], None


AttentionInterface.register(SLOTS, slot_attention)
AttentionMaskInterface.register(SLOTS, sdpa_mask)

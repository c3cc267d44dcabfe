"""Attention within the documents of a packed row: one kernel call if the device has one, else SDPA per document.

`attend_within_documents` switches a model to it. Other models are correct too: Transformers finds the documents by
their positions. With flash attention that is as fast; other implementations then build a dense mask [T, T].

Shapes: T positions of all documents, D documents, H heads, A width of a head.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.generic import is_flash_attention_requested

from sicog.model.views import sent

DOCUMENTS = "documents"  # the attn_implementation: SDPA, except for packed rows
# Options of torch's kernel for causal attention and shared keys. They differ between versions.
VARLEN_OPTIONS = frozenset(inspect.signature(varlen_attn).parameters)
_CAUSAL: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in VARLEN_OPTIONS else {"is_causal": True}
_SHARES_KEYS = "enable_gqa" in VARLEN_OPTIONS


def attend_within_documents(model: Any) -> None:
    """Make the language model attend within documents, without a dense mask, if it gets their borders.

    Models with flash attention or sliding windows are not changed. Only Transformers' masks support sliding windows.
    """
    config = model.language_model.config
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if config._attn_implementation == "sdpa" and not sliding:
        config._attn_implementation = DOCUMENTS


def packed_arguments(
    config: Any, x_BTE: torch.Tensor, borders: Any, position_ids: torch.Tensor | None
) -> dict[str, Any]:
    """Arguments of the language model for a packed row [1, T, E], computed once for all layers.

    borders: int [D + 1], tensor or array, the start of each document, and T. position_ids: None makes positions that
    restart with every document. Raises `ValueError` if the borders do not cover the row.
    """
    places = borders.tolist()  # without waiting, if whoever made them has kept them on the host
    lengths = [end - start for start, end in zip(places, places[1:], strict=False)]
    if len(x_BTE) != 1 or not lengths or places[0] != 0 or places[-1] != x_BTE.shape[1] or min(lengths) < 1:
        raise ValueError(
            f"document_borders must rise from 0 to the positions of one packed row, {tuple(x_BTE.shape[:2])}; "
            f"got {places[:8]}{' ...' if len(places) > 8 else ''}"
        )
    if position_ids is None:
        position_ids = sent(torch.cat([torch.arange(n) for n in lengths])[None], x_BTE.device)
    arguments: dict[str, Any] = {"attention_mask": None, "position_ids": position_ids, "use_cache": False}
    own = config._attn_implementation == DOCUMENTS
    if own:
        # Transformers passes on a 4-D mask unchanged. Otherwise it would build a T x T mask from the positions.
        arguments["attention_mask"] = x_BTE.new_zeros(1, 1, 1, 1)
    if own and not has_varlen(x_BTE):
        arguments["document_lengths"] = tuple(lengths)
    elif own or is_flash_attention_requested(config):
        ends = sent(torch.as_tensor(borders, dtype=torch.int32), x_BTE.device)
        arguments |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
        arguments |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    return arguments


def has_varlen(x: torch.Tensor) -> bool:
    """Whether torch's variable-length attention runs on this tensor's device in the current dtype."""
    return (
        x.is_cuda
        and _half(x) in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(x.device) >= (8, 0)
    )


def document_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    document_lengths: tuple[int, ...] | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """[1, H, T, A] -> [1, T, H, A]. Without lengths and borders it is Transformers' SDPA with its mask."""
    if document_lengths is not None:
        parts = zip(*(x.split(document_lengths, dim=2) for x in (query, key, value)), strict=True)
        outs = [
            sdpa_attention_forward(module, q, k, v, None, dropout=dropout, scaling=scaling, is_causal=True)[0]
            for q, k, v in parts
        ]
        return torch.cat(outs, dim=1), None
    if cu_seq_lens_q is not None:
        assert max_length_q is not None and not dropout
        q_THA, k_TGA, v_TGA = (x[0].transpose(0, 1) for x in (query, key, value))
        return varlen_attention(q_THA, k_TGA, v_TGA, cu_seq_lens_q, max_length_q, scaling, causal=True)[None], None
    out: torch.Tensor = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )[0]
    return out, None


def varlen_attention(
    q_THA: torch.Tensor,
    k_TGA: torch.Tensor,
    v_TGA: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scale: float | None,
    *,
    causal: bool,
) -> torch.Tensor:
    """[T, H, A]: torch's own kernel, once for all stretches of positions between int32 borders [D + 1]."""
    options = dict(_CAUSAL) if causal else {}
    if q_THA.shape[1] != k_TGA.shape[1]:
        if _SHARES_KEYS:
            options["enable_gqa"] = True
        else:
            repeats = q_THA.shape[1] // k_TGA.shape[1]
            k_TGA, v_TGA = (x.repeat_interleave(repeats, dim=1) for x in (k_TGA, v_TGA))
    # Under autocast the rotary embedding gives float32, and autocast does not cast for this kernel.
    dtype = _half(q_THA)
    q, k, v = (x.to(dtype) for x in (q_THA, k_TGA, v_TGA))
    out = varlen_attn(q, k, v, borders, borders, longest, longest, scale=scale, **options)
    assert isinstance(out, torch.Tensor)  # without the softmax normaliser
    return out


def _half(x: torch.Tensor) -> torch.dtype:
    """The dtype of attention: autocast's dtype inside autocast."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


AttentionInterface.register(DOCUMENTS, document_attention)
AttentionMaskInterface.register(DOCUMENTS, sdpa_mask)

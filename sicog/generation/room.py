"""How many sequences fit into a GPU's memory while they decode."""

from __future__ import annotations

from typing import Any

import torch

_SHARE = 0.85  # of the free memory; the rest is for prompts that are run, logits and fragments


def cache_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one token in all layers. config: of the language model."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * dtype.itemsize)


def fitting_rows(model: Any, tokens: int) -> int | None:
    """How many sequences of this many tokens fit beside what is allocated now; None where memory is not counted (CPU).

    Raises `ValueError` if not even one fits.
    """
    free = _free_bytes(model.device)
    if free is None:
        return None
    row = tokens * cache_bytes_per_token(model.config.text_config, model.dtype)
    if (rows := int(_SHARE * free) // row) < 1:
        raise ValueError(
            f"a sequence of {tokens:,} tokens needs {row / 2**30:.1f} GiB of keys and values, and "
            f"{free / 2**30:.1f} GiB are free on {model.device}. Lower max_new_tokens, or use a GPU with more memory"
        )
    return rows


def _free_bytes(device: torch.device) -> int | None:
    """What the driver has left, and what torch holds without using it."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)

"""Rotary frequencies in float32, whatever casts the model they belong to.

DeepSpeed before 0.19.2 casts all buffers to bfloat16, and Transformers before 5.23 computes them in bfloat16 under
ZeRO-3. Rounded frequencies move positions: of Qwen2, by up to 1.7 radians at position 1,500.
"""

from __future__ import annotations

from typing import Any

import torch

_SUFFIX = "inv_freq"  # Transformers' name; models with several kinds of layers put theirs before it


def restore_frequencies(model: Any) -> list[str]:
    """Compute all rotary frequencies again, in float32, and replace those that differ. Returns their names.

    Call it before the first update: some kinds of rotary positions change their frequencies with the length of rows.
    """
    replaced = []
    for path, module in model.named_modules():
        names = [name for name in module._buffers if name.endswith(_SUFFIX)]
        if not names or not hasattr(module, "config"):
            continue
        fresh = type(module)(config=module.config)  # outside of DeepSpeed's and Transformers' loading contexts
        for name in names:
            found, wanted = module._buffers[name], fresh._buffers[name].float()
            if found.dtype != torch.float32 or not torch.equal(found.cpu(), wanted.cpu()):
                module._buffers[name] = wanted.to(found.device)
                replaced.append(f"{path}.{name}")
    return replaced

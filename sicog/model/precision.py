"""Resolve precision and device: `auto` is bfloat16 on a GPU and float32 on a CPU.

`native` is bfloat16 also on CPUs with bfloat16 arithmetic. Imports torch only when a function is called.
"""

from __future__ import annotations

import re
from typing import Any, Literal

Precision = Literal["auto", "float32", "bfloat16", "native"]
_DEVICES = ("cpu", "cuda", "xpu", "mps", "npu", "meta")
_WITH_BFLOAT16 = ("amx_bf16", "avx512_bf16")  # torch's names of CPU features


def resolve_precision(precision: Precision, device: str = "auto") -> Precision:
    """The precision for `auto` and `native` on this device (`auto`: a GPU if there is one); others are unchanged."""
    if precision not in ("auto", "native"):
        return precision
    on_cpu = named_device(device).startswith("cpu")
    return "float32" if on_cpu and not (precision == "native" and _computes_in_bfloat16()) else "bfloat16"


def _computes_in_bfloat16() -> bool:
    """Whether this CPU has bfloat16 arithmetic. False if torch (before 2.13) cannot detect it."""
    import torch

    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(can.get(name) for name in _WITH_BFLOAT16)


def chosen_device(device: str = "auto") -> str:
    """The device for `auto` on this machine; others are unchanged.

    Raises `ValueError` for an invalid device, and for one that this machine does not have.
    """
    named = named_device(device)
    if device in ("auto", "cpu"):
        return named
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device} is not on this machine ({reason}). Set device=auto") from None
    return device


def named_device(device: str = "auto") -> str:
    """As `chosen_device`, but without a check that this machine has the device; another machine may do the work."""
    if device != "auto":
        if not re.fullmatch(rf"({'|'.join(_DEVICES)})(:\d+)?", device):
            raise ValueError(f"device={device} is invalid. Give auto, cpu, cuda, or one GPU such as cuda:0")
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

"""The precision of computation: `auto` is bfloat16 on a GPU and float32 on a CPU, `native` bfloat16 also on a CPU that
computes in it. Needs no torch until it is asked."""

from __future__ import annotations

import re
from typing import Any, Literal

Precision = Literal["auto", "float32", "bfloat16", "native"]
_DEVICES = ("cpu", "cuda", "xpu", "mps", "npu", "meta")
_WITH_BFLOAT16 = ("amx_bf16", "avx512_bf16")  # by torch's names of what a CPU can do


def resolve_precision(precision: Precision, device: str = "auto") -> Precision:
    """What `auto` and `native` stand for on this device (`auto`: a GPU when there is one); others as they are."""
    if precision not in ("auto", "native"):
        return precision
    on_cpu = named_device(device).startswith("cpu")
    return "float32" if on_cpu and not (precision == "native" and _computes_in_bfloat16()) else "bfloat16"


def _computes_in_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; where torch cannot tell (before 2.13), no."""
    import torch

    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(can.get(name) for name in _WITH_BFLOAT16)


def chosen_device(device: str = "auto") -> str:
    """The device that `auto` stands for on this machine; others as they are.

    Raises `ValueError` for what is no device, and for one that this machine does not have.
    """
    named = named_device(device)
    if device in ("auto", "cpu"):
        return named
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device} is not on this machine ({reason}); leave device at auto") from None
    return device


def named_device(device: str = "auto") -> str:
    """As `chosen_device`, but a device that is named need not be here: the work may be done on another machine."""
    if device != "auto":
        if not re.fullmatch(rf"({'|'.join(_DEVICES)})(:\d+)?", device):
            raise ValueError(f"device={device}: give auto, cpu, cuda, or one GPU such as cuda:0")
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

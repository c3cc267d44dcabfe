"""The precision of computation: `auto` is bfloat16 on a GPU and float32 on a CPU. Needs no torch until it is asked."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]


def settled(precision: Precision, device: str = "auto") -> Precision:
    """The precision that `auto` stands for on this device (`auto`: a GPU when there is one); others as they are."""
    if precision != "auto":
        return precision
    return "float32" if chosen_device(device).startswith("cpu") else "bfloat16"


def chosen_device(device: str = "auto") -> str:
    """The device that `auto` stands for on this machine; others as they are."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

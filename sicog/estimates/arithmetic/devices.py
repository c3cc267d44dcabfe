"""Data sheets of devices: dense bfloat16 FLOP/s, and bytes/s of the memory. Needs no torch."""

from __future__ import annotations

import re

# (FLOP/s, bytes/s) by words of the device's name. The first match counts, so special kinds come before the general one.
RATES: dict[str, tuple[float, float]] = {
    "B200": (2250e12, 8.0e12),
    "H200": (989e12, 4.8e12),
    "H100 PCIe": (756e12, 2.04e12),
    "H100 NVL": (835e12, 3.9e12),
    "H100": (989e12, 3.35e12),
    "H800": (989e12, 3.35e12),
    "A100": (312e12, 2.039e12),
    "A800": (312e12, 2.039e12),
    "L40S": (362e12, 0.864e12),
    "L4": (121e12, 0.3e12),
    "A10": (125e12, 0.6e12),
}


def device_rates(name: str) -> tuple[float, float] | None:
    """(FLOP/s, bytes/s) of a device by its name; None for an unknown device, or a slice of one (MIG)."""
    words = set(re.split(r"[\s_-]+", name))
    if "MIG" in words:
        return None
    return next((rates for kind, rates in RATES.items() if words.issuperset(kind.split())), None)

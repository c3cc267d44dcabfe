"""Preference pairs with images for tests of DPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sicog.records import PreferencePair, Turn
from sicog.stages.storage import write_dataset

N_PAIRS = 12


def make_pairs(n: int = N_PAIRS) -> list[PreferencePair]:
    """Pairs about the images of `data_dir`, some without one, whose answers differ in length."""
    pairs = []
    for i in range(n):
        images = (f"{i}.png",) if i % 4 else ()
        prompt = (Turn(role="user", text="How many objects are there?", images_at=(0,) * len(images)),)
        chosen, rejected = "red circle " * (1 + i % 3), "blue square " * (1 + i % 5)
        pairs.append(PreferencePair(id=f"pair-{i}", images=images, prompt=prompt, chosen=chosen, rejected=rejected))
    return pairs


def dpo_values(data_dir: Path, folder: Path, pairs: list[PreferencePair] | None = None) -> dict[str, Any]:
    """What a config of DPO has beside that of `config`; the pairs are written to `folder`."""
    if not folder.exists():
        write_dataset(folder, make_pairs() if pairs is None else pairs)
    return {
        "stage": "dpo",
        "objective": "dpo",
        "data": {"path": folder, "image_folder": data_dir / "images"},
        "global_batch": 4,
        "device_batch": 2,
        "max_steps": 3,
    }

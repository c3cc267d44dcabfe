"""The names of the model's parts, in the order in which data flows through them. Needs no torch."""

from __future__ import annotations

from typing import Literal

Part = Literal["vision_tower", "projector", "language_model"]
PARTS: tuple[Part, ...] = ("vision_tower", "projector", "language_model")

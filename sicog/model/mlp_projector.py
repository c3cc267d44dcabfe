"""The projector of the low-resolution variant: two linear layers with GELU between them, on each patch."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init


class MlpProjector(nn.Sequential):
    """One feature for each patch, in the same order. Parameters as in LLaVA-1.5's `mm_projector`: 0 and 2."""

    def __init__(self, *, width: int, vision_width: int) -> None:
        super().__init__(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw fresh weights like torch's linear layers, except for those loaded from a checkpoint."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                init.uniform_(layer.weight, -bound, bound)
                init.uniform_(layer.bias, -bound, bound)

    def forward(self, features_PD: torch.Tensor, view_sizes: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """features [P, D] of all views, view after view; view_sizes int [V, 2], all the same -> [V, patches, E].

        Raises `ValueError` when views differ in size or do not add up to P.
        """
        sizes = {(int(h), int(w)) for h, w in view_sizes.tolist()}
        if len(sizes) != 1 or len(view_sizes) * int(view_sizes[0].prod()) != len(features_PD):
            raise ValueError(
                f"the mlp projector needs views of one size that make up {len(features_PD)} patches, "
                f"got {len(view_sizes)} views of {sorted(sizes)}; prepare images with image_mode square"
            )
        return super().forward(features_PD).unflatten(0, (len(view_sizes), -1))

"""LLaVA-UHD's spatial resampler: every view, whatever its shape, becomes G x G features of the language model's width.

Each of the G x G queries attends to the pooled patches of its own region only. Pooling is linear and fixed per shape,
and a query sees at most 12 vectors, so the key weights are absorbed into the queries and the value weights are applied
after the attention: the two largest products of the plain formula disappear, the result is the same.
Source of the formula: LLaVA-UHD v1 (arXiv 2403.11703).

Shapes: V views, P patches of all views, D tower width, E language model width, Q = G * G queries, H heads,
A = E / H, R x S bins (R = G * bins down, S = G * bins across), B bins of one region, Y x X patches of a view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import initialization as init

from sicog.model.regions import bins_of, pooling_map
from sicog.model.views import ShapeGroup, group_views

_NORM_EPS = 1e-6


class RegionAttention(nn.Module):
    """Multi-head attention of each query to the bins of its own region. Parameters as `nn.MultiheadAttention`'s."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query_QE: torch.Tensor, groups: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """query [Q, E]; groups of (pooled values [V, Q, B, E], pooled positions [Q, B, E]) -> [all V, Q, E].

        Keys are values plus positions. The bias of the keys shifts all scores of a query alike and so drops out of the
        softmax; the bias of the values is added once, since attention weights sum to 1.
        """
        width, heads = query_QE.shape[-1], self.n_heads
        w_q, w_k, w_v = self.in_proj_weight.chunk(3)
        b_q, _, b_v = self.in_proj_bias.chunk(3)
        q_QHA = nn.functional.linear(query_QE, w_q, b_q).view(-1, heads, width // heads)
        q_QHE = torch.einsum("qha,hae->qhe", q_QHA, w_k.view(heads, -1, width)) * (width // heads) ** -0.5
        parts = []
        for values_VQBE, positions_QBE in groups:
            scores_VQHB = torch.einsum("qhe,vqbe->vqhb", q_QHE, values_VQBE)
            scores_VQHB = scores_VQHB + torch.einsum("qhe,qbe->qhb", q_QHE, positions_QBE)
            mixed_VQHE = scores_VQHB.softmax(dim=-1) @ values_VQBE
            parts.append(torch.einsum("vqhe,hae->vqha", mixed_VQHE, w_v.view(heads, -1, width)).flatten(2))
        return self.out_proj(torch.cat(parts) + b_v)


class Resampler(nn.Module):
    """The projector. `pos_embed` is a parameter: trained checkpoints changed it, so it is always loaded."""

    def __init__(
        self, *, query_grid: int, width: int, vision_width: int, n_heads: int, regions_dtype: str = "float32"
    ) -> None:
        super().__init__()
        self.query_grid = query_grid
        self.regions_dtype = regions_dtype
        self.pos_embed = nn.Parameter(torch.empty(query_grid**2, width))
        self.query = nn.Parameter(torch.empty(query_grid**2, width))
        self.kv_proj = nn.Linear(vision_width, width, bias=False) if vision_width != width else nn.Identity()
        self.attn = RegionAttention(width, n_heads)
        self.ln_q = nn.LayerNorm(width, eps=_NORM_EPS)
        self.ln_kv = nn.LayerNorm(width, eps=_NORM_EPS)
        self.ln_post = nn.LayerNorm(width, eps=_NORM_EPS)
        self.proj = nn.Parameter(torch.empty(width, width))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw fresh weights; those that a checkpoint has already filled are left alone."""
        grid, width = self.query_grid, self.query.shape[1]
        init.copy_(self.pos_embed, sine_cosine_table(grid, width).to(self.pos_embed))
        for weight in (self.query, self.attn.out_proj.weight):
            init.trunc_normal_(weight, std=0.02)
        if isinstance(self.kv_proj, nn.Linear):
            init.trunc_normal_(self.kv_proj.weight, std=0.02)
        init.xavier_uniform_(self.attn.in_proj_weight)
        init.zeros_(self.attn.in_proj_bias)
        init.zeros_(self.attn.out_proj.bias)
        for norm in (self.ln_q, self.ln_kv, self.ln_post):
            init.ones_(norm.weight)
            init.zeros_(norm.bias)
        init.normal_(self.proj, std=width**-0.5)

    def forward(self, features_PD: torch.Tensor, view_sizes: torch.Tensor) -> torch.Tensor:
        """features [P, D] of all views, view after view; view_sizes int [V, 2] (rows, columns) -> [V, Q, E].

        Raises `ValueError` when the sizes do not add up to P.
        """
        views = group_views(view_sizes, len(features_PD))
        device = features_PD.device
        values_PE = self.ln_kv(self.kv_proj(features_PD[views.patch_order.to(device)]))
        pooled, start = [], 0
        for group in views.groups:
            n = len(group.indices) * group.n_patches
            maps = values_PE[start : start + n].view(len(group.indices), group.rows, group.columns, -1)
            positions = self._positions(group).to(maps.dtype)
            pooled.append((self._pool(maps, group), self._pool(positions[None], group)[0]))
            start += n
        out_VQE = self.attn(self.ln_q(self.query) + self.pos_embed, pooled)
        return (self.ln_post(out_VQE) @ self.proj)[views.view_order_inverse.to(device)]

    def _positions(self, group: ShapeGroup) -> torch.Tensor:
        """[Y, X, E]: the position table resized to a view's shape, in float32."""
        grid = self.query_grid
        table_EYX = self.pos_embed.float().T.reshape(1, -1, grid, grid)
        size = (group.rows, group.columns)
        return nn.functional.interpolate(table_EYX, size=size, mode="bicubic", align_corners=False)[0].permute(1, 2, 0)

    def _pool(self, maps_VYXE: torch.Tensor, group: ShapeGroup) -> torch.Tensor:
        """[V, Y, X, E] -> [V, Q, B, E]: the bins of each query's region."""
        grid = self.query_grid
        down, across = bins_of(group.rows, group.columns)
        rows_RY = pooling_map(group.rows, grid, down, self.regions_dtype).to(maps_VYXE)
        columns_SX = pooling_map(group.columns, grid, across, self.regions_dtype).to(maps_VYXE)
        bins_VRSE = torch.einsum("ry,vysE->vrsE", rows_RY, torch.einsum("sx,vyxE->vysE", columns_SX, maps_VYXE))
        blocks = bins_VRSE.unflatten(2, (grid, across)).unflatten(1, (grid, down))
        return blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def sine_cosine_table(grid: int, width: int) -> torch.Tensor:
    """float32 [grid * grid, width]: 2-D sine-cosine positions, row-major; half the channels for x, then half for y."""
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float32)[:, None] * omega
    side = torch.cat([angles.sin(), angles.cos()], dim=1)
    x, y = side[None].expand(grid, -1, -1), side[:, None].expand(-1, grid, -1)
    return torch.cat([x, y], dim=-1).flatten(0, 1)

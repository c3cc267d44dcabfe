"""LLaVA-UHD's spatial resampler: a view of any shape becomes G x G features of the language model's width.

Each of the G x G queries attends only to the pooled patches of its own region. Pooling is linear and fixed per shape,
and a query sees at most 12 vectors. So the key weights are absorbed into the queries, and the value weights are applied
after the attention. This removes the two largest products of the plain formula; the result is the same. Views of one
shape are stored side by side (by position, then by view), so pooling all of them takes two matrix products.
Source of the formula: LLaVA-UHD v1 (arXiv 2403.11703).

Shapes: V views of one shape, P patches of all views, D tower width, E language model width, Q = G * G queries, H heads,
A = E / H, B bins of one region, N = Q * V, Y x X patches of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from sicog.model.regions import pool_regions, position_map
from sicog.model.views import ShapeGroup, group_views, sent

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
        """query [Q, E]; groups of (pooled values [Q, B, V, E], pooled positions [Q, B, E]) -> [all V, Q, E].

        Keys are values plus positions. The key bias shifts all scores of a query equally, so the softmax removes it.
        The value bias is added once, because attention weights sum to 1.
        """
        width, heads = query_QE.shape[-1], self.n_heads
        w_q, w_k, w_v = self.in_proj_weight.chunk(3)
        b_q, _, b_v = self.in_proj_bias.chunk(3)
        query_QE = nn.functional.linear(query_QE, w_q, b_q) * (width // heads) ** -0.5
        q_HQA = query_QE.view(-1, heads, width // heads).transpose(0, 1)
        q_QHE = torch.bmm(q_HQA, w_k.view(heads, -1, width)).transpose(0, 1)
        w_v_HEA = w_v.view(heads, -1, width).transpose(1, 2)
        parts = [self._attend(q_QHE, w_v_HEA, *group) for group in groups]
        return self.out_proj(torch.cat(parts) + b_v)

    def _attend(
        self, q_QHE: torch.Tensor, w_v_HEA: torch.Tensor, values_QBVE: torch.Tensor, positions_QBE: torch.Tensor
    ) -> torch.Tensor:
        """[V, Q, E]: views of one shape, before the bias of the values."""
        n_queries, n_bins, n_views, width = values_QBVE.shape
        scores_QHBV = torch.bmm(q_QHE, values_QBVE.flatten(1, 2).transpose(1, 2)).view(n_queries, -1, n_bins, n_views)
        scores_QHBV = scores_QHBV + torch.bmm(q_QHE, positions_QBE.transpose(1, 2))[..., None]
        weights_NHB = scores_QHBV.softmax(dim=2).permute(0, 3, 1, 2).flatten(0, 1)
        mixed_NHE = torch.bmm(weights_NHB, values_QBVE.transpose(1, 2).reshape(-1, n_bins, width))
        out_HNA = torch.bmm(mixed_NHE.transpose(0, 1), w_v_HEA)
        return out_HNA.unflatten(1, (n_queries, n_views)).permute(2, 1, 0, 3).flatten(2)


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
        """Draw fresh weights, except for those already loaded from a checkpoint."""
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

    def forward(self, features_PD: torch.Tensor, view_sizes: Any) -> torch.Tensor:
        """features [P, D] of all views, view after view; view_sizes int [V, 2] (rows, columns) -> [V, Q, E].

        Raises `ValueError` when the sizes do not add up to P.
        """
        views = group_views(view_sizes, len(features_PD))
        device = features_PD.device
        values_PE = self.ln_kv(self.kv_proj(features_PD[sent(views.pooling_order, device)]))
        pooled, start = [], 0
        for group in views.groups:
            n = len(group.indices) * group.n_patches
            map_YXF = values_PE[start : start + n].view(group.rows, group.columns, -1)
            values_QBF = pool_regions(map_YXF, self.query_grid, self.regions_dtype)
            positions_QBE = self._positions(group).to(values_PE.dtype)
            pooled.append((values_QBF.unflatten(2, (len(group.indices), -1)), positions_QBE))
            start += n
        out_VQE = self.attn(self.ln_q(self.query) + self.pos_embed, pooled)
        return (self.ln_post(out_VQE) @ self.proj)[sent(views.view_order_inverse, device)]

    def _positions(self, group: ShapeGroup) -> torch.Tensor:
        """float32 [Q, B, E]: the position table resized to a view's shape and pooled."""
        table_NE = self.pos_embed.float()
        map_MN = position_map(group.rows, group.columns, self.query_grid, self.regions_dtype, table_NE.device)
        return (map_MN @ table_NE).unflatten(0, (self.query_grid**2, -1))


def sine_cosine_table(grid: int, width: int) -> torch.Tensor:
    """float32 [grid * grid, width]: 2-D sine-cosine positions, row-major; half the channels for x, then half for y."""
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float32)[:, None] * omega
    side = torch.cat([angles.sin(), angles.cos()], dim=1)
    x, y = side[None].expand(grid, -1, -1), side[:, None].expand(-1, grid, -1)
    return torch.cat([x, y], dim=-1).flatten(0, 1)

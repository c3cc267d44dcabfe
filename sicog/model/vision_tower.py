"""CLIP's vision transformer for many views of any size at once, without padding or masks.

Attention follows the config's `attn_implementation`. Flash attention, or on a GPU in half precision torch's own kernel
of variable length, is called once for all views. Elsewhere SDPA runs once per view length.

Shapes: V views, P patches of all views, T = P + V tokens (one CLS a view), L tokens of one view, C tower width,
K = 3 * p * p values of a patch, H heads, A width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import (
    CLIPAttention,
    CLIPEncoder,
    CLIPPreTrainedModel,
    CLIPVisionEmbeddings,
)
from transformers.utils.generic import is_flash_attention_requested

from sicog.model.kernels.document_attention import has_varlen, varlen_attention
from sicog.model.views import ShapeGroup, ViewGroups, group_views, sent


class PatchEmbedding(nn.Conv2d):
    """CLIP's patch convolution as a matrix product on cut-out patches."""

    def forward(self, pixels_PK: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(pixels_PK, self.weight.flatten(1))


class ViewEmbeddings(CLIPVisionEmbeddings):
    """Patch and position embeddings of views in sorted order, each view led by its CLS token."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        p: int = config.patch_size
        self.patch_embedding = PatchEmbedding(config.num_channels, self.embed_dim, p, stride=p, bias=False)

    def forward(self, pixels_PK: torch.Tensor, views: ViewGroups) -> torch.Tensor:  # type: ignore[override]
        """[P, K] patches in sorted order -> [T, C]."""
        x_PC = self.patch_embedding(pixels_PK.to(self.patch_embedding.weight.dtype))
        table_NC = self.position_embedding(self.position_ids)[0]
        cls_C = self.class_embedding + table_NC[0]
        parts, start = [], 0
        for group in views.groups:
            n, length = len(group.indices), group.n_patches
            x_VLC = x_PC[start : start + n * length].view(n, length, -1) + self._positions(table_NC[1:], group)
            parts.append(torch.cat([cls_C.expand(n, 1, -1), x_VLC], dim=1).flatten(0, 1))
            start += n * length
        return torch.cat(parts)

    def _positions(self, table_NC: torch.Tensor, group: ShapeGroup) -> torch.Tensor:
        """The position table for a view's shape: bicubic like the original; unchanged for the native shape."""
        side = int(self.num_patches**0.5)
        if (group.rows, group.columns) == (side, side):
            return table_NC
        map_CYX = table_NC.float().T.reshape(1, -1, side, side)
        resized = nn.functional.interpolate(
            map_CYX, size=(group.rows, group.columns), mode="bicubic", align_corners=False
        )
        return resized[0].flatten(1).T.to(table_NC.dtype)


@dataclass(frozen=True)
class Spans:
    """The positions of the views in the tokens.

    runs: (views, length) of the stretches of equal length, in token order. borders: int32 [V + 1] on the device, for
    variable-length kernels; None if SDPA runs once per run. longest: the longest view.
    """

    runs: tuple[tuple[int, int], ...]
    borders: torch.Tensor | None

    @property
    def longest(self) -> int:
        return max(length for _, length in self.runs)


class ViewAttention(CLIPAttention):
    """Self-attention within each view."""

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, attention_mask: None = None, *, spans: Spans, **_: Any
    ) -> tuple[torch.Tensor, None]:
        q_THA, k_THA, v_THA = (
            project(hidden_states).view(-1, self.num_heads, self.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = float(self.dropout or 0) if self.training else 0.0
        attend = self._flash if is_flash_attention_requested(self.config) else self._varlen
        attend = self._by_length if spans.borders is None else attend
        return self.out_proj(attend(q_THA, k_THA, v_THA, spans, dropout)), None

    def _by_length(
        self, q_THA: torch.Tensor, k_THA: torch.Tensor, v_THA: torch.Tensor, spans: Spans, dropout: float
    ) -> torch.Tensor:
        """[T, C] by one call of SDPA for all views of one length."""
        parts, start = [], 0
        for n, length in spans.runs:
            q, k, v = (
                x[start : start + n * length].view(n, length, self.num_heads, self.head_dim).transpose(1, 2)
                for x in (q_THA, k_THA, v_THA)
            )
            out = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
            parts.append(out.transpose(1, 2).reshape(n * length, self.embed_dim))
            start += n * length
        return torch.cat(parts)

    def _varlen(
        self, q_THA: torch.Tensor, k_THA: torch.Tensor, v_THA: torch.Tensor, spans: Spans, dropout: float
    ) -> torch.Tensor:
        """[T, C] by one call of torch's kernel."""
        assert spans.borders is not None and not dropout
        out = varlen_attention(q_THA, k_THA, v_THA, spans.borders, spans.longest, self.scale, causal=False)
        return out.flatten(1)

    def _flash(
        self, q_THA: torch.Tensor, k_THA: torch.Tensor, v_THA: torch.Tensor, spans: Spans, dropout: float
    ) -> torch.Tensor:
        """[T, C] by one call of the config's flash attention, as one row of packed views."""
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        borders = {"cu_seq_lens_q": spans.borders, "cu_seq_lens_k": spans.borders}
        longest = {"max_length_q": spans.longest, "max_length_k": spans.longest}
        q, k, v = (x[None].transpose(1, 2) for x in (q_THA, k_THA, v_THA))
        out, _ = attend(self, q, k, v, None, dropout=dropout, scaling=self.scale, is_causal=False, **borders, **longest)
        return out.reshape(-1, self.embed_dim)


class VisionTower(CLIPPreTrainedModel):
    """CLIP's vision tower up to the selected layer.

    The layers above it and the last norm are kept for checkpoints, but they are frozen and never run.
    """

    config_class = CLIPVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]
    _no_split_modules = ["ViewEmbeddings", "CLIPEncoderLayer"]

    def __init__(self, config: Any, select_layer: int = -2) -> None:
        super().__init__(config)
        self.n_run = select_layer if select_layer >= 0 else config.num_hidden_layers + 1 + select_layer
        if not 0 < self.n_run <= config.num_hidden_layers:
            raise ValueError(f"vision_select_layer {select_layer} needs more layers than {config.num_hidden_layers}")
        self.embeddings = ViewEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(config)
        for layer in self.encoder.layers:
            layer.self_attn = ViewAttention(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()
        self.freeze_unused()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    def freeze_unused(self) -> None:
        """Freeze the layers that never run, so no optimizer gets them."""
        for module in (*self.encoder.layers[self.n_run :], self.post_layernorm):
            module.requires_grad_(False)

    def forward(self, pixel_values: torch.Tensor, view_sizes: Any) -> torch.Tensor:
        """Features of the selected layer without CLS.

        pixel_values: [P, K] normalised patches, view after view. view_sizes: int [V, 2] (rows, columns) in patches.
        Returns [P, C] in the same order. Raises `ValueError` when the sizes do not add up to P, or for uint8 patches.
        """
        if not pixel_values.is_floating_point():
            raise ValueError(f"the vision tower takes normalised patches, got {pixel_values.dtype}; see encode_images")
        views = group_views(view_sizes, len(pixel_values))
        device = pixel_values.device
        x_TC = self.embeddings(pixel_values[sent(views.patch_order, device)], views)
        x_TC = self.pre_layrnorm(x_TC)
        runs = views.attention_runs(extra=1)
        spans = Spans(runs, views.borders(extra=1, device=device) if self._has_kernel(x_TC) else None)
        for layer in self.encoder.layers[: self.n_run]:
            x_TC = layer(x_TC, None, spans=spans)
        return self._without_cls(x_TC, runs)[sent(views.patch_order_inverse, device)]

    def _has_kernel(self, x_TC: torch.Tensor) -> bool:
        """Whether one call serves views of all lengths."""
        if is_flash_attention_requested(self.config):
            return True
        drops = self.training and self.config.attention_dropout > 0  # which torch's kernel cannot
        return self.config._attn_implementation == "sdpa" and has_varlen(x_TC) and not drops

    def _without_cls(self, x_TC: torch.Tensor, runs: tuple[tuple[int, int], ...]) -> torch.Tensor:
        parts = x_TC.split([n * length for n, length in runs])
        return torch.cat(
            [x.view(n, length, -1)[:, 1:].flatten(0, 1) for x, (n, length) in zip(parts, runs, strict=True)]
        )

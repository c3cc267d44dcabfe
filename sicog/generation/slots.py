"""The key-value cache of sequences that decode together: rows join, fork and leave; all end in the same column.

Every row is aligned to the right. So one write per layer serves all rows, and only the length of a row is stored.
Shapes: B rows, H key-value heads, C columns of the buffer, T columns in use, S columns to write, D width of a head,
R rows of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_HEADROOM = 64  # columns; a rebuilt or grown buffer has room for this many steps before the next copy


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer in buffers [B, H, C, D]. They are written in place; `length` columns are in use."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [B, H, S, D]; returns all columns in use, as views."""
        if not self.is_initialized:
            # A prompt is copied into the slots later, so its own cache needs no room to grow.
            self.keys, self.values = key_states, value_states
            self.length, self.is_initialized = key_states.shape[2], True
            return self.keys, self.values
        assert self.keys is not None and self.values is not None
        start, stop = self.length, self.length + key_states.shape[2]
        if stop > self.keys.shape[2]:
            extra = stop - self.length + max(_HEADROOM, self.length // 8)
            self.keys, self.values = (_grow(x_BHCD, self.length, extra) for x_BHCD in (self.keys, self.values))
        self.keys[:, :, start:stop] = key_states
        self.values[:, :, start:stop] = value_states
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """A `Cache` of `SlotLayer`s, for the `past_key_values` of any Transformers language model."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=SlotLayer)

    @property
    def slot_layers(self) -> list[SlotLayer]:
        """The layers as `SlotLayer`s."""
        return cast(list[SlotLayer], self.layers)

    @property
    def n_rows(self) -> int:
        """The number of rows in the buffers."""
        keys = self.slot_layers[0].keys
        return 0 if keys is None else len(keys)

    @property
    def full(self) -> bool:
        """Whether another column would need a copy of all others."""
        first = self.slot_layers[0]
        return first.keys is not None and first.length == first.keys.shape[2]


@dataclass(frozen=True)
class Rows:
    """Some rows [R] of a cache, in any order and with repetition.

    columns: the length of the longest one. consumed: nobody needs the cache afterwards.
    """

    cache: SlotCache
    rows: torch.Tensor
    columns: int
    consumed: bool = False


def join_rows(parts: Sequence[Rows]) -> SlotCache:
    """A new cache with all these rows, as wide as the longest one. Leaving, joining and forking take one copy.

    Buffers of consumed caches are freed one by one as they are copied, so that two whole caches never coexist.
    """
    result, width = SlotCache(), max(part.columns for part in parts)
    for index in range(len(parts[0].cache)):
        sources = [part.cache.slot_layers[index] for part in parts]
        layer = SlotLayer()
        layer.keys = _stack_rows([source.keys for source in sources], sources, parts, width)
        for source, part in zip(sources, parts, strict=True):
            source.keys = None if part.consumed else source.keys
        layer.values = _stack_rows([source.values for source in sources], sources, parts, width)
        for source, part in zip(sources, parts, strict=True):
            source.values = None if part.consumed else source.values
        layer.length, layer.is_initialized = width, True
        result.layers.append(layer)
    return result


def overwrite(cache: SlotCache, places: torch.Tensor, new: Rows) -> None:
    """Write rows of another cache over these unused rows [R]. The other rows do not change.

    `new.columns` is at most the number of columns in use. Columns before a new row are masked, as for short rows.
    """
    for layer, source in zip(cache.slot_layers, new.cache.slot_layers, strict=True):
        here, there = slice(layer.length - new.columns, layer.length), slice(source.length - new.columns, source.length)
        for x_BHCD, new_BHCD in ((layer.keys, source.keys), (layer.values, source.values)):
            assert x_BHCD is not None and new_BHCD is not None
            x_BHCD[places, :, here] = new_BHCD[:, :, there].index_select(0, new.rows)


def _stack_rows(
    buffers: Sequence[torch.Tensor | None], layers: Sequence[SlotLayer], parts: Sequence[Rows], width: int
) -> torch.Tensor:
    """Stack the parts' rows of one buffer, aligned to the right, with headroom; [R, H, C, D]."""
    assert buffers[0] is not None
    _, n_heads, _, head_width = buffers[0].shape
    n_rows = sum(len(part.rows) for part in parts)
    # Zeros, not empty: columns before a short row are masked, but a masked NaN would still spread.
    out_RHCD = buffers[0].new_zeros(n_rows, n_heads, width + _HEADROOM, head_width)
    start = 0
    for x_BHCD, layer, part in zip(buffers, layers, parts, strict=True):
        assert x_BHCD is not None
        used_BHTD = x_BHCD[:, :, layer.length - part.columns : layer.length]
        out_RHCD[start : start + len(part.rows), :, width - part.columns : width] = used_BHTD.index_select(0, part.rows)
        start += len(part.rows)
    return out_RHCD


def align_right(cache: SlotCache, valid_BT: torch.Tensor) -> None:
    """Move the valid columns of every row to the right end, which closes gaps between prefix and suffix."""
    order_BT = valid_BT.to(torch.uint8).argsort(dim=1, stable=True)
    for layer in cache.slot_layers:
        assert layer.keys is not None and layer.values is not None
        _, n_heads, _, head_width = layer.keys.shape
        index_BHTD = order_BT[:, None, :, None].expand(-1, n_heads, -1, head_width)
        layer.keys = layer.keys[:, :, : layer.length].gather(2, index_BHTD)
        layer.values = layer.values[:, :, : layer.length].gather(2, index_BHTD)


def _grow(x_BHCD: torch.Tensor, length: int, extra: int) -> torch.Tensor:
    n_rows, n_heads, _, head_width = x_BHCD.shape
    grown = x_BHCD.new_empty(n_rows, n_heads, length + extra, head_width)
    grown[:, :, :length] = x_BHCD[:, :, :length]
    return grown

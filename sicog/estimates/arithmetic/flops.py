"""FLOPs of the model: every matrix product of one row, from the config and the sizes of its images.

Counts as PyTorch's own counter does: two FLOPs for a multiplication, matrix products only, attention scores over all
pairs of positions (a causal kernel computes half of them), and nothing that a kernel computes again by itself.
Shapes as in the modules: P patches, L tokens of one view, T positions, S supervised ones, C / E widths.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn

from sicog.model.configuration import SicogConfig
from sicog.model.image_processing import SicogImageProcessor
from sicog.model.layout import count_tokens
from sicog.model.lengths import RowCost
from sicog.model.modeling import SicogForConditionalGeneration
from sicog.model.part_names import PARTS, Part
from sicog.model.regions import bins_of
from sicog.model.resampler import Resampler

ROWS = ("vision tower", "projector", "language model blocks", "attention scores", "loss head")


@dataclass(frozen=True)
class Work:
    """One row: `views` as (rows, columns) in patches, its positions, those of an image, and the supervised ones."""

    views: tuple[tuple[int, int], ...]
    image_tokens: int
    text_tokens: int
    supervised: int

    @property
    def positions(self) -> int:
        """All positions of the language model."""
        return self.image_tokens + self.text_tokens


@dataclass(frozen=True)
class Product:
    """Matrix products of one kind: FLOPs of one forward pass, the part they belong to, the row they are shown in.

    kind: what the activations are multiplied with, which decides the backward pass: a `weight` of the part, another
    activation (`pair`), or a `constant`. first: its input carries no gradient unless an earlier part is trained.
    repeated: run again under gradient checkpointing.
    """

    row: str
    part: Part
    forward: int
    kind: Literal["weight", "pair", "constant"] = "weight"
    first: bool = False
    repeated: bool = False

    def training(self, trainable: Collection[str], checkpointing: bool) -> int:
        """FLOPs of forward and backward when these parts are trained."""
        upstream = any(p in trainable for p in PARTS[: PARTS.index(self.part)])
        own = self.part in trainable
        input_needs_gradient = upstream or (own and not self.first)
        if self.kind == "pair":
            backward = 2 * input_needs_gradient
        else:
            backward = input_needs_gradient + (own and self.kind == "weight")
        again = checkpointing and self.repeated and (upstream or own)
        return self.forward * (1 + backward + again)


@lru_cache(maxsize=4)
def skeleton(config_json: str) -> SicogForConditionalGeneration:
    """The model without weights, of `SicogConfig.to_json_string`."""
    import json

    with torch.device("meta"):
        return SicogForConditionalGeneration(SicogConfig.from_dict(json.loads(config_json)))


def model_of(config: SicogConfig) -> SicogForConditionalGeneration:
    """The config's model on the meta device: shapes only."""
    return skeleton(config.to_json_string(use_diff=False))


def work_of(
    config: SicogConfig,
    image_size: tuple[int, int] | None,
    text_tokens: int,
    *,
    slicing: bool = True,
    supervised: int | None = None,
    processor: SicogImageProcessor | None = None,
) -> Work:
    """A row of one image (width, height in pixels; None: text only) and text. supervised: None is all of the text.

    processor: plans the views; None: one of the config's settings. Raises `ValueError` for too elongated an image.
    """
    n_supervised = text_tokens if supervised is None else supervised
    if image_size is None:
        return Work((), 0, text_tokens, n_supervised)
    plan = (processor or image_processor(config)).plan(*image_size, slicing=slicing)
    return Work(plan.views(config.patch_size), count_tokens(plan.grid, config.query_grid), text_tokens, n_supervised)


def image_processor(config: SicogConfig, long_side: int | None = None) -> SicogImageProcessor:
    """The image processor with a config's settings."""
    return SicogImageProcessor(
        scale=config.scale,
        patch_size=config.patch_size,
        max_slices=config.max_slices,
        image_mode=config.image_mode or "slices",
        long_side=long_side,
    )


def products(config: SicogConfig, work: Work) -> list[Product]:
    """All matrix products of one row's forward pass with its loss."""
    model = model_of(config)
    return [*_vision(model, work), *_projector(model, work), *_language(model, work)]


def forward_flops(config: SicogConfig, work: Work) -> dict[str, int]:
    """FLOPs of the forward pass with the loss, by row."""
    return _sum_by_row((x.row, x.forward) for x in products(config, work))


def training_flops(
    config: SicogConfig, work: Work, trainable: Collection[str] = PARTS, *, checkpointing: bool = False
) -> dict[str, int]:
    """FLOPs of forward and backward, by row. checkpointing: the layers' forward is run again."""
    return _sum_by_row((x.row, x.training(trainable, checkpointing)) for x in products(config, work))


def row_cost(config: SicogConfig, trainable: Collection[str] = PARTS, *, checkpointing: bool = False) -> RowCost:
    """The FLOPs of `training_flops` as coefficients of a row's lengths.

    Exact in tokens. Approximate in views: attention within a view is linear in its patches, fitted between a view of
    full size and one of half its rows. Work that views of one shape share is counted for each of them.
    """

    def total(work: Work) -> int:
        return sum(training_flops(config, work, trainable, checkpointing=checkpointing).values())

    one, two, target = (total(Work((), 0, n, supervised)) for n, supervised in ((1, 0), (2, 0), (1, 1)))
    side = config.scale // config.patch_size
    half = max(1, side // 2)
    whole_view, half_view = (total(Work(((rows, side),), 0, 1, 0)) - one for rows in (side, half))
    patch = (whole_view - half_view) / max(1, (side - half) * side)
    return RowCost(
        token=2 * one - two / 2,
        token_pair=two / 2 - one,
        supervised=target - one,
        view=whole_view - patch * side * side,
        patch=patch,
    )


def parameters(config: SicogConfig) -> dict[str, int]:
    """Parameters by part; a tied head is counted once."""
    return {name: sum(p.numel() for p in module.parameters()) for name, module in modules(config).items()}


def trained_parameters(config: SicogConfig, trainable: Collection[str]) -> int:
    """Parameters that reach the optimizer; layers of the vision tower that never run do not."""
    chosen = [module for name, module in modules(config).items() if name in trainable]
    return sum(p.numel() for module in chosen for p in module.parameters() if p.requires_grad)


def modules(config: SicogConfig) -> Mapping[str, nn.Module]:
    """The parts by the names that `trainable` knows."""
    model = model_of(config)
    return dict(zip(PARTS, (model.vision_tower, model.resampler, model.language_model), strict=True))


def _vision(model: SicogForConditionalGeneration, work: Work) -> Iterable[Product]:
    tower = model.vision_tower
    config: Any = tower.config
    patches = sum(h * w for h, w in work.views)
    layers: Any = tower.encoder.layers[: tower.n_run]
    row, part = ROWS[0], PARTS[0]
    yield Product(row, part, 2 * patches * tower.embeddings.patch_embedding.weight.numel(), first=True)
    tokens = patches + len(work.views)
    pairs = sum((h * w + 1) ** 2 for h, w in work.views)
    for layer in layers:
        # The last product of a layer is not run again: nothing of the backward pass needs its result.
        last = layer.mlp.fc2.weight.numel()
        yield Product(row, part, 2 * tokens * (_linear(layer) - last), repeated=True)
        yield Product(row, part, 2 * tokens * last)
    yield Product(row, part, 4 * pairs * config.hidden_size * len(layers), "pair", repeated=True)


def _projector(model: SicogForConditionalGeneration, work: Work) -> Iterable[Product]:
    row, part, projector = ROWS[1], PARTS[1], model.resampler
    patches = sum(h * w for h, w in work.views)
    if not work.views:
        return
    if not isinstance(projector, Resampler):
        linears = [m for m in projector.modules() if isinstance(m, nn.Linear)]
        for i, linear in enumerate(linears):
            yield Product(row, part, 2 * patches * linear.weight.numel(), first=i == 0)
        return
    n_queries, width = projector.query.shape
    heads, grid = projector.attn.n_heads, projector.query_grid
    if isinstance(projector.kv_proj, nn.Linear):
        yield Product(row, part, 2 * patches * projector.kv_proj.weight.numel(), first=True)
    square = 2 * n_queries * width * width
    yield Product(row, part, 2 * square)  # the queries, and the key weights absorbed into them, once
    for height, wide in work.views:
        down, across = bins_of(height, wide)
        yield Product(row, part, 2 * width * grid * down * wide * (height + grid * down * across), "constant")
        yield Product(row, part, 2 * 2 * n_queries * heads * width * down * across, "pair")
    for height, wide in set(work.views):  # positions: once per shape, by one map from the table to the bins
        bins = n_queries * math.prod(bins_of(height, wide))
        yield Product(row, part, 2 * bins * n_queries * width, "constant")
        yield Product(row, part, 2 * bins * heads * width, "pair")
    # For each view: the value weights, the output weights, and the last projection.
    yield Product(row, part, 3 * square * len(work.views))


def _language(model: SicogForConditionalGeneration, work: Work) -> Iterable[Product]:
    part, n, config = PARTS[2], work.positions, model.config.text_config
    layers: Any = model.language_model.base_model.layers
    for layer in layers:
        last = layer.mlp.down_proj.weight.numel()
        yield Product(ROWS[2], part, 2 * n * (_linear(layer) - last), repeated=True)
        yield Product(ROWS[2], part, 2 * n * last)
    heads = config.num_attention_heads  # type: ignore[union-attr]
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads  # type: ignore[union-attr]
    yield Product(ROWS[3], part, 4 * n * n * heads * head_width * len(layers), "pair", repeated=True)
    head: Any = model.get_output_embeddings()
    yield Product(ROWS[4], part, 2 * work.supervised * head.weight.numel())


def _linear(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _sum_by_row(items: Iterable[tuple[str, int]]) -> dict[str, int]:
    totals = dict.fromkeys(ROWS, 0)
    for name, value in items:
        totals[name] += value
    return totals
